"""What can be said about a run before it starts, without torch: what it would do, what it needs, what is wrong."""
