"""A run in several processes: starting them, what each does, and the page or queue that has started them."""
