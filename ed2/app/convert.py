"""`python -m ed2 convert`: convert between a diffusers folder, a `.safetensors` and a `.ckpt`."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ed2.disk import HashingFile, finish_folder, plain_reason, temporary_name, to_disk, write_whole
from ed2.errors import ModelError, Problem
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS
from ed2.models.files.base_model import PICKLES
from ed2.models.files.folder import ModelFolder
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.layout import diffusers_tensors, single_file_tensors, yaml_beside
from ed2.models.files.pickled import write_tensors_of
from ed2.models.files.source import open_base
from ed2.models.files.tensor_file import write_single_file, write_tensors

FILES = (".safetensors", ".ckpt")
PREDICTION_KEY = "prediction_type"


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
