"""How much memory training takes, operation by operation, found on tensors that have a shape and no content."""
