"""What a run computes once and keeps for others: latents of images and embeddings of captions."""
