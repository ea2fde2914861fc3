"""A run in several processes: starting them, what rank 0 tells the others, and what they do."""
