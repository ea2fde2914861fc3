"""A base model, whether it is a diffusers folder or a single file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ed2.models.base import ModelSource
from ed2.models.files import open_folder, with_scheduler
from ed2.models.single_file import open_single_file


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
