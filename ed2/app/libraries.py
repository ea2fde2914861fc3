"""Reading the libraries that models need, which takes seconds. Needs no torch until then."""

import os

from ed2.garbage import without_collection


def read_libraries() -> None:
    """Load them as they load fastest: quiet, and without asking the hub for anything."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with without_collection():  # which would take a third of the time
        from ed2.models.compute import quiet_libraries

        quiet_libraries()
