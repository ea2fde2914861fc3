"""Reading the pictures that the settings name."""

import os
from collections.abc import Callable
from pathlib import Path

from ed2.data.example import Dataset
from ed2.data.folder import ScanOptions, scan
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings

INDEX_FILE = PROGRAM_DIR / "user" / "index.json"
MOST_THREADS = 8


def decode_threads(settings: Settings) -> int:
    """Threads that decode pictures: the number set, else one a core, at most eight."""
    return settings.data.decode_threads or min(MOST_THREADS, os.cpu_count() or 2)


def scan_dataset(
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Dataset:
    """Read every picture in full; results are remembered in the user's folder.

    Raises:
        DatasetError: there is nothing to train on.
        StopRequested: `should_stop` said so.
    """
    options = ScanOptions(
        resolution=settings.data.resolution,
        flip_p=settings.data.flip_p,
        cond_dropout=settings.data.cond_dropout,
        shuffle_tags=settings.data.shuffle_tags,
        index_path=INDEX_FILE,
        threads=decode_threads(settings),
    )
    return scan([Path(root) for root in settings.data.data_root], options, progress=progress, should_stop=should_stop)
