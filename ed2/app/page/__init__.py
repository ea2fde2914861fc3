"""What the page needs beside the trainer: folders that it may look into, a table of prompts, TensorBoard."""
