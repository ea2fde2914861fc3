"""Values to begin with: what they are suggested for, the rules, and the answer to `--suggest`."""
