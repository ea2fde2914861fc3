"""What the page needs besides the trainer: the folders it may open, the prompt table, TensorBoard."""
