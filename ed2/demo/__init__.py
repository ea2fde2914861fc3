"""The embedded demo: a tiny base model, an image set to teach it, and the scripts that make both."""
