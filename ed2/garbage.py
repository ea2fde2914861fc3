"""Python's search for unused cycles of objects, which is of no use where many objects are made that all stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Make many objects in less time: Python would go through those that there are again and again.

    In several threads at once, it may begin again before the last of them is done.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
