"""A base model, whether it is a diffusers folder or a single file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ed2.errors import Problem
from ed2.models.base import ModelSource
from ed2.models.files.base_faults import is_file
from ed2.models.files.folder import first_line, model_error, open_folder, with_scheduler
from ed2.models.files.folder_faults import SCHEDULER_CONFIG
from ed2.models.files.single_file import open_single_file
from ed2.models.process import Discrete


def open_base(path: Path, scheduler_changes: Mapping[str, Any]) -> ModelSource:
    """Look at a base model without reading its weights.

    Args:
        path: a diffusers folder or a single file.
        scheduler_changes: what the user wants other than the model says, by the names of a scheduler's configuration.

    Raises:
        ModelError: it is missing, incomplete, or of a kind that cannot be trained.
    """
    if is_file(path):
        source: ModelSource = open_single_file(path, scheduler_changes)
    else:
        folder = open_folder(path)
        source = replace(folder, small_files=with_scheduler(folder.small_files, scheduler_changes))
    try:
        Discrete.from_config(source.config(SCHEDULER_CONFIG))
    except Exception as error:  # a wrong configuration fails in as many ways as it has settings
        own = isinstance(error, ValueError)
        what = first_line(error) if own else f"no schedule of noise can be made from it ({first_line(error)})"
        problem = Problem(SCHEDULER_CONFIG, f"{what}.", "Choose another model.")
        raise model_error(path, problem) from None
    return source
