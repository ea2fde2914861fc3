"""The base models on this computer: found in the usual folders, and converted where they are in PyTorch's own format.

A file in that format can run code, so a model is converted once into the user's folder. Needs no torch until then.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from itertools import islice, product
from pathlib import Path

from ed2.checkpoint.folder import ByteProgress, no_progress
from ed2.disk import new_folder, sha256_of, write_whole
from ed2.disk_errors import plain_reason
from ed2.errors import ModelError, Problem
from ed2.models.files.folder_problems import family_in, small_names
from ed2.models.files.found import FoundModel, find_models
from ed2.models.files.header import HeaderError, read_header
from ed2.models.files.pickled import write_tensors_of
from ed2.models.files.pickled_folder import write_without_pickles
from ed2.models.files.weight_files import find_pickled_weights, find_weights
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER
from ed2.text import file_size

MODELS_DIR = PROGRAM_DIR / "user" / "models"
KEY_LETTERS = 16
"""Of the hash of the content, in the name of the converted file."""
WEB_UI_FOLDERS = ("models/Stable-diffusion", "models/checkpoints")
"""Where the usual web UIs keep their models, from their own folder."""
LEVELS_ABOVE = 2
"""Folders above the program's that may be, or hold, a web UI."""
MAX_NEIGHBOURS = 200


def models_here(model_dirs: Iterable[str], allow: Callable[[Path], bool] = lambda path: True) -> list[FoundModel]:
    """The base models on this computer, also in `model_dirs`; `allow` is asked for each path before it is opened."""
    from huggingface_hub import constants

    folders = [*map(Path, model_dirs), *_web_ui_folders(allow)]
    return find_models(dict.fromkeys(folders), Path(constants.HF_HUB_CACHE), allow)


def _web_ui_folders(allow: Callable[[Path], bool]) -> list[Path]:
    """The folders of models of the web UIs that are above the program's folder, or beside it."""
    homes = [PROGRAM_DIR, *PROGRAM_DIR.parents[:LEVELS_ABOVE]]
    if allow(PROGRAM_DIR.parent):
        homes += sorted(islice((path for path in PROGRAM_DIR.parent.iterdir() if path.is_dir()), MAX_NEIGHBOURS))
    folders = [home / name for home, name in product(homes, WEB_UI_FOLDERS)]
    return list(filter(Path.is_dir, folders))


def converted(
    model: Path, progress: ByteProgress = no_progress, say: Callable[[str], object] = lambda text: None
) -> tuple[Path, str]:
    """The `.safetensors` with the weights of a `.ckpt`, or a folder of them for a folder of `.bin` files.

    It is written now unless this content was converted before.

    Args:
        model: a file in PyTorch's own format, or a diffusers folder with such files; they are read in a separate
            process, and nothing in them runs.
        progress: called while its bytes are read; may raise to stop.
        say: called with a sentence before it is written.

    Returns:
        Where it is, and a note for the user.

    Raises:
        ModelError: it contains code, or cannot be written.
    """
    try:
        key = _key(model, progress)
        target = MODELS_DIR / (f"{model.name}-{key}" if model.is_dir() else f"{model.stem}-{key}.safetensors")
        if target.is_dir() or _is_whole(target):
            return target, f"Using {target}, which was converted from {model.name} before."
        return target, _convert(model, target, say)
    except OSError as error:
        fix = f"Check the drive, and that {MODELS_DIR} can be written."
        raise _error(model, Problem(None, f"{plain_reason(error)}.", fix)) from error


def _key(model: Path, progress: ByteProgress) -> str:
    """A hash of the content, and of the .yaml beside a file, which says what it predicts. Raises OSError."""
    files = _files_of(model)
    done, total = 0, sum(file.stat().st_size for file in files)

    def was_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(model.name, done, total)

    progress(model.name, 0, total)
    digest = hashlib.sha256("".join(sha256_of(file, was_read) for file in files).encode())
    if text := _yaml_beside(model):
        digest.update(text)
    return digest.hexdigest()[:KEY_LETTERS]


def _files_of(model: Path) -> list[Path]:
    """The files that make the model what it is."""
    if not model.is_dir():
        return [model]
    family = family_in(model)
    files = [model / name for name in small_names(model, family)]
    for part in family.parts:
        found = find_pickled_weights(model, part) or find_weights(model, part)
        files += found.files if found else []
    return files


def _yaml_beside(model: Path) -> bytes:
    beside = model.with_suffix(".yaml")
    return beside.read_bytes() if beside.is_file() and not model.is_dir() else b""


def _is_whole(file: Path) -> bool:
    try:
        read_header(file)
    except HeaderError:
        return False
    return True


def _convert(model: Path, target: Path, say: Callable[[str], object]) -> str:
    size = sum(file.stat().st_size for file in _files_of(model))
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < size:
        what = f"its weights take {file_size(size)} in {target.parent}, where {file_size(free)} are free."
        raise _error(model, Problem(None, what, f"Free some space, or convert it elsewhere: {LAUNCHER} convert."))
    say(f"converting {model.name} ({file_size(size)}) to {target}")
    if model.is_dir():
        with new_folder(target) as folder:
            write_without_pickles(model, folder)
    else:
        write_readable(model, target)
    return f"{model.name} was converted to {target} ({file_size(size)}), which this run trains."


def write_readable(model: Path, target: Path) -> None:
    """Write a model in PyTorch's own format as safetensors: a folder as a folder, a file with the .yaml beside it.

    Raises:
        ModelError: it contains code.
        OSError: it cannot be written.
    """
    if model.is_dir():
        write_without_pickles(model, target)
        return
    if text := _yaml_beside(model):
        write_whole(target.with_suffix(".yaml"), text)
    write_tensors_of(model, target)


def _error(pickle: Path, problem: Problem) -> ModelError:
    return ModelError(f"The base model {pickle} cannot be used:", [problem])
