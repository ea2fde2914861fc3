"""The images and captions that the settings name: read, told of, and edited."""
