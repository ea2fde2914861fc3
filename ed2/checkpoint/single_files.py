"""Which single file belongs to which checkpoint, by its name and its header. Needs no torch."""

import re
from contextlib import suppress
from pathlib import Path

from ed2.models.files.header import HeaderError, read_header

RUN_KEY = "run"
"""Metadata key in a single file for the run that wrote it."""
_NUMBERED = re.compile(r" \(\d+\)$")


def find_single_file(folder: Path, run_name: str, name: str) -> Path | None:
    """The single file in `folder` that a run wrote for its checkpoint `name`, if it exists."""
    with suppress(OSError):
        for path in [*folder.glob("*.safetensors"), *folder.glob("*.ckpt")]:
            if checkpoint_of(path) == name and writer_of(path) in (run_name, None):
                return path
    return None


def checkpoint_of(single_file: Path) -> str:
    """The name of the checkpoint that a single file was made from, without the number that made its name unique."""
    return _NUMBERED.sub("", single_file.stem)


def writer_of(single_file: Path) -> str | None:
    """The run that wrote a single file; None if the file does not say."""
    if single_file.suffix != ".safetensors":
        return None
    try:
        return read_header(single_file).metadata.get(RUN_KEY)
    except (HeaderError, OSError):
        return None
