"""A run in several processes as a child of the page or the queue, which show and control it as one of their own."""
