"""From a folder of images to the batches of an epoch."""
