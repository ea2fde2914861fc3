"""Single files for web UIs, made from a checkpoint that is already on the disk."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ed2 import disk
from ed2.checkpoint.identity import RUN_KEY, find_single_file, read_manifest, writer_of
from ed2.disk import rename_if_free, sweep_half_files
from ed2.models.base import DiffusionModel
from ed2.models.families.facts import FACTS
from ed2.models.files.description import Description, ModelSpec
from ed2.models.files.folder_problems import EXTRA_FILE, SCHEDULER_CONFIG
from ed2.models.files.layout import single_file_tensors
from ed2.models.files.lora_base import LoraBase, is_lora_checkpoint
from ed2.models.files.self_check import SavedModel
from ed2.models.files.tensor_file import mapped_tensors, write_single_file
from ed2.models.lora.file import checkpoint_layers, write_lora


@dataclass(frozen=True)
class Exporter:
    """Writes the single files of one run.

    Attributes:
        folder: where they go.
        run_name: of the run; a file of another run or program is never replaced.
        container: format of the file.
        dtype: precision of the numbers.
        about: what the metadata says of the model, besides the date.
        tag_frequency: of the captions, for the metadata of a LoRA.
    """

    folder: Path
    run_name: str
    container: Literal["safetensors", "ckpt"] = "safetensors"
    dtype: torch.dtype = torch.float16
    about: ModelSpec | None = None
    tag_frequency: str = ""

    def write(self, checkpoint: Path, family: str, prediction_type: str) -> Path:
        """Write the single file of `checkpoint`, whose weights are read from the disk, not all at once.

        It gets its name once what opens it was found to be what was saved.

        Raises:
            CheckpointError, OSError, SafetensorError: it could not be written; an older file of that name is unchanged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_half_files(self.folder)
        if is_lora_checkpoint(checkpoint):
            return self._write_lora(checkpoint)
        description = Description(prediction_type, _has_zero_snr(checkpoint))
        parts = _parts_of(checkpoint, family)
        content = single_file_tensors(family, parts, _extra_of(checkpoint)) | description.tensors()
        saved = SavedModel(family, prediction_type, parts, content, self.dtype)
        metadata = {"format": "pt", RUN_KEY: self.run_name, **description.metadata()}
        metadata |= self._spec_of(checkpoint).metadata(family, prediction_type)

        def place(temporary: Path, path: Path) -> Path:
            return next(name for name in _numbered(path) if self._take_with_yaml(temporary, name, description, family))

        wanted = self.folder / f"{checkpoint.name}.{self.container}"
        return write_single_file(wanted, content, metadata, dtype=self.dtype, place=place, find_fault=saved.fault_in)

    def _write_lora(self, checkpoint: Path) -> Path:
        """Write the single file of a LoRA, by kohya's names; it is a `.safetensors` whatever `container` says."""
        base = LoraBase.read(checkpoint)
        layers = checkpoint_layers(checkpoint, base)
        spec = self._spec_of(checkpoint)
        metadata = {RUN_KEY: self.run_name, **spec.metadata(base.family, base.prediction_type)}
        if self.tag_frequency:
            metadata["ss_tag_frequency"] = self.tag_frequency

        def place(temporary: Path, path: Path) -> Path:
            return next(name for name in _numbered(path) if self._take(temporary, name))

        wanted = self.folder / f"{checkpoint.name}.safetensors"
        return write_lora(wanted, layers, FACTS[base.family], metadata, dtype=self.dtype, place=place)

    def find_file(self, name: str) -> Path | None:
        """The single file that this run wrote for the checkpoint `name`, if it exists."""
        return find_single_file(self.folder, self.run_name, name)

    def require_place(self, model: DiffusionModel) -> None:
        """Raise ModelError unless all tensors of `model` have a name in a single file; takes no memory."""
        if any(part.mode == "lora" for part in model.parts.values()):
            return  # its names follow from those of the layers that were chosen
        names = {}
        for part in model.parts.values():
            names[part.name] = {name: tensor.to("meta") for name, tensor in part.saved().items()}
        single_file_tensors(model.facts.name, names)

    def _spec_of(self, checkpoint: Path) -> ModelSpec:
        return replace(self.about or ModelSpec(checkpoint.name), date=_date_of(checkpoint))

    def _take(self, temporary: Path, path: Path) -> bool:
        """Rename a finished file to `path`, unless a file of that name belongs to another run or program."""
        if rename_if_free(temporary, path):
            return True
        if writer_of(path) != self.run_name:
            return False
        disk.replace(temporary, path)
        return True

    def _take_with_yaml(self, temporary: Path, path: Path, description: Description, family: str) -> bool:
        """The same for a whole model, unless the .yaml of that name belongs to another one, even since just now."""
        if description.is_contradicted(path) or not self._take(temporary, path):
            return False
        if description.add_yaml(path, family):
            return True
        path.rename(temporary)  # another program has put a .yaml there between these lines
        return False


def opened_as(checkpoint: Path, family: str, prediction_type: str) -> str:
    """What the single file of a checkpoint is for a program that opens it: `SD 1.x, epsilon`."""
    if is_lora_checkpoint(checkpoint):
        return f"a LoRA for {FACTS[family].title}"
    return f"{FACTS[family].title}, {prediction_type.replace('_', '-')}"


def _numbered(path: Path) -> Iterator[Path]:
    """The path itself, then with ` (2)`, ` (3)`, ... behind its name."""
    yield path
    yield from (path.with_stem(f"{path.stem} ({number})") for number in count(2))


def _parts_of(checkpoint: Path, family: str) -> dict[str, dict[str, Tensor]]:
    return {part.name: mapped_tensors(checkpoint / part.file) for part in FACTS[family].parts}


def _date_of(checkpoint: Path) -> str:
    """When a checkpoint was saved, so that its file has the same bytes whenever it is written; empty if unknown."""
    saved_at = str(read_manifest(checkpoint).get("saved_at", ""))
    with suppress(ValueError):
        return f"{datetime.fromisoformat(saved_at).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _has_zero_snr(checkpoint: Path) -> bool:
    config = json.loads((checkpoint / SCHEDULER_CONFIG).read_bytes())
    return Description.of_scheduler(config).is_zero_snr


def _extra_of(checkpoint: Path) -> dict[str, Tensor]:
    file = checkpoint / EXTRA_FILE
    if not file.is_file():
        return {}
    return mapped_tensors(file)
