"""The images and captions that the settings name: reading, reporting and editing them."""
