"""From what a user names to a base model: a diffusers folder, a single file, or a public name that is on this disk."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ed2.models.base import ModelSource
from ed2.models.files import open_folder, with_scheduler
from ed2.models.single_file import open_single_file

PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_base(path: Path, scheduler_changes: Mapping[str, Any]) -> ModelSource:
    """Look at a base model without reading its weights.

    Args:
        path: a diffusers folder or a single file.
        scheduler_changes: what the user wants other than the model says, by the names of a scheduler's configuration.

    Raises:
        ModelError: it is missing, incomplete, or of a kind that cannot be trained.
    """
    if path.is_file():
        return open_single_file(path, scheduler_changes)
    folder = open_folder(path)
    return replace(folder, small_files=with_scheduler(folder.small_files, scheduler_changes))


def in_hub_cache(name: str) -> Path | None:
    """The folder of a public model, `owner/name`, in this machine's hub cache; None where it is not there."""
    if not PUBLIC_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
