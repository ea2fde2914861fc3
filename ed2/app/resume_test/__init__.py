"""The resume test: checks that a killed run, once resumed, ends with the same bytes as one that was never stopped."""
