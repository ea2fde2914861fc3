"""The resume test: shows that a killed run ends with the bytes of one that was never stopped."""
