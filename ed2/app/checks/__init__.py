"""What is known of a run before it starts, without torch: what it would do and cost, and what is wrong."""
