"""`python -m ed2 convert`: convert between a diffusers folder, a `.safetensors` and a `.ckpt`."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ed2.app.local_models import write_readable
from ed2.disk import new_folder, rename_if_free, temporary_name, to_disk
from ed2.disk_errors import plain_reason
from ed2.errors import ModelError, Problem, printable
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS
from ed2.models.files.base_model import SINGLE_FILES, locate, pickle_problem
from ed2.models.files.description import PREDICTION_KEY, Description, ModelSpec, kept_metadata, without_marks
from ed2.models.files.folder import ModelFolder
from ed2.models.files.folder_problems import EXTRA_FILE, SCHEDULER_CONFIG
from ed2.models.files.header import is_pickle, read_header
from ed2.models.files.layout import diffusers_tensors, single_file_tensors
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.models.files.pickled_folder import pickled_parts
from ed2.models.files.self_check import SavedModel
from ed2.models.files.source import num_text_layers, open_base
from ed2.models.files.tensor_file import (
    EIGHT_BITS,
    by_name,
    difference,
    mapped_tensors,
    pieces_of,
    write_single_file,
)
from ed2.terminal import LAUNCHER

OTHER_FORMATS = (
    *(".bin", ".pt", ".pth", ".pkl", ".onnx", ".gguf", ".h5", ".hdf5", ".msgpack", ".pb", ".tflite", ".json", ".yaml"),
    *(".zip", ".tar", ".gz", ".7z", ".rar"),
)
"""Endings of other formats; any other dot belongs to the name of a folder."""


Weights = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each part, by their diffusers names."""
Change = Callable[[ModelSource, Weights], Weights]


def convert(
    source: Path,
    target: Path,
    prediction_type: str | None = None,
    dtype: torch.dtype | None = None,
    change: Change | None = None,
) -> None:
    """Write the model `source` as `target`, a folder or, by its extension, a single file; nothing is overwritten.

    Args:
        source: a diffusers folder, a `.safetensors` or a `.ckpt` of a family that can be trained; or the public name of
            a model in the cache of the hub.
        target: a new path in an existing folder.
        prediction_type: what the model predicts, if it does not say so itself.
        dtype: of the floating-point numbers in the target; None leaves them as they are.
        change: gives other weights of the same names and shapes to write.

    Raises:
        ModelError: the source is damaged or unsupported, or the target cannot be written.
        CheckpointError: a single file could not be written.
    """
    require_free(target)
    if is_lora_checkpoint(source):
        fix = f"Merge it with its base model: {LAUNCHER} merge BASE {source.name} {target.name}"
        problem = Problem(None, "it is a LoRA, which has no weights of its own.", fix)
        raise ModelError(f"{source} cannot be converted:", [problem])
    place = locate(str(source))
    with _without_pickle(place.path if place else source, target) as readable:
        model = open_base(readable, {PREDICTION_KEY: prediction_type} if prediction_type else {})
        for part in model.dtypes:
            model.read(part)  # checks that every tensor is there, finite and of the right shape
        if target.suffix.lower() in SINGLE_FILES:
            _write_file(model, target, dtype, change)
        else:
            _write_folder(model, target, dtype, change)


def require_free(target: Path) -> None:
    """Raise ModelError unless a file or folder can be made there."""
    if target.exists():
        raise not_written(target, "it already exists.", "Choose another name, or remove it.")
    if not target.parent.is_dir():
        raise not_written(target, f"the folder {target.parent} does not exist.", "Create it first.")
    if target.suffix.lower() in OTHER_FORMATS:
        fix = "Use .safetensors or .ckpt, or a folder name."
        raise not_written(target, f"{target.suffix} is not a supported format.", fix)


def placed(temporary: Path, target: Path) -> Path:
    """Give a finished file its name. Raises ModelError if another one has it by now."""
    if not rename_if_free(temporary, target):
        raise not_written(target, "another program has written it in the meantime.", "Choose another name.")
    return target


def not_written(target: Path, what: str, fix: str) -> ModelError:
    """The error of a file or folder that cannot be written."""
    return ModelError(f"{printable(str(target), 1000)} cannot be written:", [Problem(None, what, fix)])


@contextmanager
def _without_pickle(source: Path, target: Path) -> Iterator[Path]:
    """Give a source that can be read: for pickled weights, a temporary file or folder with these weights."""
    is_file = source.is_file() and is_pickle(source)
    if not is_file and not pickled_parts(source):
        yield source
        return
    readable = temporary_name(target.with_name(f"{target.stem}-weights{'.safetensors' if is_file else ''}"))
    try:
        with _writing(target):
            if is_file and (problem := pickle_problem(source)):
                raise ModelError(str(source), [problem])
            write_readable(source, readable)
        yield readable
    except ModelError as error:
        raise ModelError(f"{source} cannot be converted:", error.problems) from None
    finally:
        shutil.rmtree(readable, ignore_errors=True)
        for file in (readable, readable.with_suffix(".yaml")):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _write_file(model: ModelSource, target: Path, dtype: torch.dtype | None, change: Change | None) -> None:
    description = Description.of_scheduler(model.config(SCHEDULER_CONFIG))

    def place(temporary: Path, target: Path) -> Path:
        placed(temporary, target)
        if not description.add_yaml(target, model.family):
            target.unlink()
            raise _yaml_error(target)
        return target

    with _writing(target):
        if description.is_contradicted(target):
            raise _yaml_error(target)
    metadata = {"format": "pt", **description.metadata(), **_spec_of(model, target)}
    if not isinstance(model, ModelFolder) and change is None:
        tensors = without_marks(_loaded(model.path)) | description.tensors()
        write_single_file(target, tensors, metadata, dtype=dtype, place=place)
        return
    parts = _changed_parts(model, change)
    tensors = single_file_tensors(model.family, parts, model.extra()) | description.tensors()
    saved = SavedModel(model.family, description.prediction_type, parts, tensors, dtype)
    write_single_file(target, tensors, metadata, dtype=dtype, place=place, find_fault=saved.fault_in)


def _spec_of(model: ModelSource, target: Path) -> dict[str, str]:
    """The metadata that describes a model: what its own file says of it, or as much as a folder does."""
    prediction_type = Description.of_scheduler(model.config(SCHEDULER_CONFIG)).prediction_type
    if isinstance(model, ModelFolder):
        return ModelSpec(target.stem, _resolution_of(model)).metadata(model.family, prediction_type)
    own = kept_metadata(read_header(model.path).metadata)
    return {**ModelSpec(target.stem).metadata(model.family, prediction_type), **own}


def _resolution_of(model: ModelFolder) -> str:
    """The size of image that a model was made for, as width x height; empty if its configuration does not say."""
    latents = model.config("unet/config.json").get("sample_size")
    levels = model.config("vae/config.json").get("block_out_channels")
    if not isinstance(latents, int) or not isinstance(levels, list):
        return ""
    side = latents * 2 ** (len(levels) - 1)
    return f"{side}x{side}"


def _yaml_error(target: Path) -> ModelError:
    what = f"{target.with_suffix('.yaml').name} is there already and describes another model, which this file would be "
    return not_written(target, f"{what}taken for.", "Choose another name.")


def _write_folder(model: ModelSource, target: Path, dtype: torch.dtype | None, change: Change | None) -> None:
    with _writing(target), new_folder(target) as folder:
        _fill(folder, model, dtype, change)
        for part in model.dtypes:
            open_base(folder, {}).read(part)


def _fill(folder: Path, model: ModelSource, dtype: torch.dtype | None, change: Change | None) -> None:
    """Raises OSError, and ModelError for a number that `dtype` cannot hold."""
    for name, content in model.small_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        to_disk(folder / name)
    files = {FACTS[model.family].part(part).file: tensors for part, tensors in _changed_parts(model, change).items()}
    if extra := model.extra():
        files[EXTRA_FILE] = extra
    for name, tensors in files.items():
        with (folder / name).open("wb") as stream:
            stream.writelines(pieces_of(tensors, {"format": "pt"}, dtype=dtype))
        to_disk(folder / name)
        if wrong := difference(by_name(mapped_tensors(folder / name), tensors), dtype):
            raise ModelError(f"{folder.name} was not written:", [Problem(name, wrong)])


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_written(target, f"{plain_reason(error)}.", "Choose another folder.") from error


def _changed_parts(model: ModelSource, change: Change | None) -> Weights:
    """The weights to write, in the stored precision or, where that is 8 bits, in fp16."""
    parts = parts_of(model, _loaded)
    return change(model, parts) if change else parts


def parts_of(model: ModelSource, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part of a model, as `read` gives those of a file, by their diffusers names."""
    if not isinstance(model, ModelFolder):
        return diffusers_tensors(dict(read(model.path)), num_text_layers=num_text_layers(model)).parts
    parts: dict[str, dict[str, Tensor]] = {}
    for name, found in model.weights.items():
        parts[name] = {}
        for file in found.files:
            parts[name].update(read(file))
    return parts


def _loaded(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; 8-bit numbers as fp16, which every program reads and which holds all of them."""
    tensors = {}
    for name, tensor in load_file(file).items():
        tensors[name] = tensor.half() if tensor.dtype in EIGHT_BITS else tensor
    return tensors
