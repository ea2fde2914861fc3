"""A program that another one has started, and that ends with it however that ends."""

import os
import threading


def leave_with_the_starter() -> None:
    """End this program when the one that holds the other end of its standard input is gone, killed or not."""
    threading.Thread(target=_leave_at_the_end_of_the_pipe, name="leaving", daemon=True).start()


def _leave_at_the_end_of_the_pipe() -> None:
    os.read(0, 1)
    os._exit(1)
