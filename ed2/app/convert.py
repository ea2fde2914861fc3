"""`python -m ed2 convert`: convert between a diffusers folder, a `.safetensors` and a `.ckpt`."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ed2.disk import HashingFile, finish_folder, plain_reason, temporary_name, to_disk, write_whole
from ed2.errors import ModelError, Problem, printable
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS
from ed2.models.files.base_model import PICKLES
from ed2.models.files.folder import ModelFolder
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.layout import diffusers_tensors, single_file_tensors, yaml_beside
from ed2.models.files.source import open_base
from ed2.models.files.tensor_file import write_single_file, write_tensors
from ed2.models.files.unpickle import REFUSED
from ed2.settings.files import PROGRAM_DIR

FILES = (".safetensors", ".ckpt")
PREDICTION_KEY = "prediction_type"
MAX_ENTRIES = 50_000
MAX_PICKLE_BYTES = 64 << 20
MAX_UNPACKED_RATIO = 3
"""PyTorch does not compress at all."""
TIMEOUT_SECONDS = 1800
SAFE = "Get the .safetensors of this model."


def convert(source: Path, target: Path, prediction_type: str | None = None) -> None:
    """Write the model `source` as `target`, a folder or, by its extension, a single file; nothing is overwritten.

    Args:
        source: a diffusers folder, a `.safetensors` or a `.ckpt` of a family that can be trained.
        target: a new path in an existing folder.
        prediction_type: what the model predicts, if it does not say so itself.

    Raises:
        ModelError: the source is damaged or unsupported, or the target cannot be written.
        CheckpointError: a single file could not be written.
    """
    _require_free(target)
    with _without_pickle(source, target) as readable:
        model = open_base(readable, {PREDICTION_KEY: prediction_type} if prediction_type else {})
        for part in model.dtypes:
            model.read(part)  # checks that every tensor is there, finite and of the right shape
        if target.suffix.lower() in FILES:
            _write_file(model, target)
        else:
            _write_folder(model, target)


def _require_free(target: Path) -> None:
    if target.exists():
        raise _error(target, "it already exists.", "Choose another name, or remove it.")
    if not target.parent.is_dir():
        raise _error(target, f"the folder {target.parent} does not exist.", "Create it first.")
    if target.suffix and target.suffix.lower() not in FILES:
        fix = f"Use {' or '.join(FILES)}, or a folder name."
        raise _error(target, f"{target.suffix} is not a supported format.", fix)


@contextmanager
def _without_pickle(source: Path, target: Path) -> Iterator[Path]:
    """Give a source that can be read: for a pickle, a temporary file with its weights."""
    if not source.is_file() or source.suffix.lower() not in PICKLES:
        yield source
        return
    weights = temporary_name(target.with_name(f"{target.stem}-weights.safetensors"))
    beside = source.with_suffix(".yaml")
    try:
        write_tensors_of(source, weights)
        if beside.is_file():
            with _writing(target):
                shutil.copyfile(beside, weights.with_suffix(".yaml"))
        yield weights
    except ModelError as error:
        raise ModelError(f"{source} cannot be converted:", error.problems) from None
    finally:
        for file in (weights, weights.with_suffix(".yaml")):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _write_file(model: ModelSource, target: Path) -> None:
    predicted = str(model.config(SCHEDULER_CONFIG)[PREDICTION_KEY])
    if isinstance(model, ModelFolder):
        tensors = single_file_tensors(model.family, _parts(model), model.extra())
    else:
        tensors = load_file(model.path)
    write_single_file(target, tensors, {"format": "pt", PREDICTION_KEY: predicted})
    if text := yaml_beside(model.family, predicted):
        with _writing(target):
            write_whole(target.with_suffix(".yaml"), text.encode())


def _write_folder(model: ModelSource, target: Path) -> None:
    folder = temporary_name(target)
    try:
        with _writing(target):
            _fill(folder, model)
            for part in model.dtypes:
                open_base(folder, {}).read(part)
            finish_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, model: ModelSource) -> None:
    for name, content in model.small_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        to_disk(folder / name)
    for part, tensors in _parts(model).items():
        file = folder / FACTS[model.family].part(part).file
        with file.open("wb") as stream:
            write_tensors(HashingFile(stream), tensors, {"format": "pt"})
        to_disk(file)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(target, f"{plain_reason(error)}.", "Choose another folder.") from error


def _parts(model: ModelSource) -> Mapping[str, Mapping[str, Tensor]]:
    """The weights of each part by their diffusers names, in the stored precision."""
    if isinstance(model, ModelFolder):
        return {part: load_file(file) for part, file in model.weights.items()}
    layers = model.config("text_encoder/config.json")["num_hidden_layers"]
    return diffusers_tensors(load_file(model.path), num_text_layers=layers).parts


def _error(target: Path, what: str, fix: str) -> ModelError:
    return ModelError(f"{target} cannot be written:", [Problem(None, what, fix)])


def write_tensors_of(pickle: Path, target: Path) -> None:
    """Write the weights of a `.ckpt` as the safetensors file `target`, without running anything in it.

    Raises:
        ModelError: it is damaged, contains code, or would fill the memory.
    """
    problem = _problem_with(pickle)
    if problem:
        raise _not_readable(pickle, problem)
    command = [sys.executable, "-m", "ed2.models.files.unpickle", str(pickle.absolute()), str(target.absolute())]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM_DIR), "HF_HUB_OFFLINE": "1"}
    try:
        child = subprocess.run(
            command,
            cwd=PROGRAM_DIR,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _not_readable(pickle, "reading it takes too long") from None
    if child.returncode:
        raise _not_readable(pickle, _reason(child))


def _problem_with(pickle: Path) -> str:
    """What is wrong with a file, going by its ZIP directory, without the full stop; empty if nothing is."""
    try:
        if not pickle.is_file():
            return "there is no such file"
        size = pickle.stat().st_size
        with zipfile.ZipFile(pickle) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        reason = "" if isinstance(error, zipfile.BadZipFile) else f" ({error})"
        return f"it is not a file of PyTorch 1.6 or later, or it is damaged{reason}"
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_RATIO * size:
        return "it unpacks to far more than its size, which could fill the memory"
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1:
        return "it contains no PyTorch weights"
    return "its index of weights is too large" if pickles[0].file_size > MAX_PICKLE_BYTES else ""


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == REFUSED:
        return printable(str(json.loads(child.stdout)["reason"]), 400)
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return f"reading it failed, possibly out of memory ({printable(last, 200)})"


def _not_readable(pickle: Path, what: str) -> ModelError:
    return ModelError(f"{pickle} cannot be converted:", [Problem(None, f"{what}.", SAFE)])
