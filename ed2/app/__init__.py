"""A run put together: the only layer that knows every part."""
