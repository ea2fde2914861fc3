"""Base models in PyTorch's own format: converted once into the user's folder, since such a file can run code."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from ed2.checkpoint.folder import Progress, no_progress
from ed2.disk import plain_reason, sha256_of, write_whole
from ed2.errors import ModelError, Problem
from ed2.models.files.base_model import pickle_problem
from ed2.models.files.header import HeaderError, read_header
from ed2.models.files.pickled import write_tensors_of
from ed2.settings.files import PROGRAM_DIR
from ed2.text import file_size

MODELS_DIR = PROGRAM_DIR / "user" / "models"
KEY_LETTERS = 16
"""Of the hash of the content, in the name of the converted file."""


def converted(
    pickle: Path, progress: Progress = no_progress, say: Callable[[str], object] = lambda text: None
) -> tuple[Path, str]:
    """The `.safetensors` with the weights of a `.ckpt`, written now unless this content was converted before.

    Args:
        pickle: a file in PyTorch's own format; it is read in a separate process, and nothing in it runs.
        progress: called while its bytes are read; may raise to stop.
        say: called with a sentence before the file is written.

    Returns:
        Where it is, and a note for the user.

    Raises:
        ModelError: it is no model, contains code, or cannot be written.
    """
    if problem := pickle_problem(pickle):
        raise _error(pickle, problem)
    try:
        target = MODELS_DIR / f"{pickle.stem}-{_key(pickle, progress)}.safetensors"
        if _is_whole(target):
            return target, f"Using {target}, which was converted from {pickle.name} before."
        return target, _convert(pickle, target, say)
    except OSError as error:
        fix = f"Check the drive, and that {MODELS_DIR} can be written."
        raise _error(pickle, Problem(None, f"{plain_reason(error)}.", fix)) from error


def _key(pickle: Path, progress: Progress) -> str:
    """A hash of the content, and of the .yaml beside it, which says what the model predicts. Raises OSError."""
    done, total = 0, pickle.stat().st_size

    def was_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(pickle.name, done, total)

    progress(pickle.name, 0, total)
    digest = hashlib.sha256(sha256_of(pickle, was_read).encode())
    if text := _yaml_beside(pickle):
        digest.update(text)
    return digest.hexdigest()[:KEY_LETTERS]


def _yaml_beside(pickle: Path) -> bytes:
    beside = pickle.with_suffix(".yaml")
    return beside.read_bytes() if beside.is_file() else b""


def _is_whole(file: Path) -> bool:
    try:
        read_header(file)
    except HeaderError:
        return False
    return True


def _convert(pickle: Path, target: Path, say: Callable[[str], object]) -> str:
    size = pickle.stat().st_size
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < size:
        what = f"its weights take {file_size(size)} in {target.parent}, where {file_size(free)} are free."
        raise _error(pickle, Problem(None, what, "Free some space, or convert it elsewhere: python -m ed2 convert."))
    say(f"converting {pickle.name} ({file_size(size)}) to {target}")
    if text := _yaml_beside(pickle):
        write_whole(target.with_suffix(".yaml"), text)
    write_tensors_of(pickle, target)
    return f"{pickle.name} was converted to {target} ({file_size(target.stat().st_size)}), which this run trains."


def _error(pickle: Path, problem: Problem) -> ModelError:
    return ModelError(f"The base model {pickle} cannot be used:", [problem])
