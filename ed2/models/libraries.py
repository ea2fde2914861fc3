"""Keeping the libraries quiet about what is no news to a user."""

import logging


def quiet_libraries() -> None:
    """Show only errors of diffusers and transformers, and none of their progress bars."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional kernel of its CPU part is never there
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
