"""The folders of runs: what a run writes into its own, and what is read back from any run."""
