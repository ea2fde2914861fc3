"""The embedded demo: a tiny base model, a picture set to teach it, and the scripts that make both."""
