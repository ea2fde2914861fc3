"""Public models of the Hugging Face hub: looked up, offered, and downloaded only after a yes."""
