"""Single files for web UIs, made from a checkpoint that is already on the disk.

A run's first one is opened as a web UI does, and has to predict what its checkpoint predicts.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from ed2 import disk
from ed2.checkpoint.folder import damaged_name
from ed2.checkpoint.identity import RUN_KEY, find_single_file, read_manifest, writer_of
from ed2.checkpoint.room import MEMORY_MARGIN, free_memory_bytes
from ed2.disk import rename, rename_if_free, sweep_half_files
from ed2.disk_errors import plain_reason
from ed2.errors import ModelError
from ed2.events import CheckpointSaved, EventBus, SingleFileChecked, Warned
from ed2.models.base import DiffusionModel, ModelSource
from ed2.models.families.facts import FACTS
from ed2.models.files.description import Description, ModelSpec
from ed2.models.files.folder_problems import EXTRA_FILE, SCHEDULER_CONFIG
from ed2.models.files.header import is_pickle
from ed2.models.files.layout import single_file_tensors
from ed2.models.files.lora_base import LoraBase, is_lora_checkpoint
from ed2.models.files.self_check import (
    PartDifference,
    SavedModel,
    compare_predictions,
    comparison_bytes,
    size_difference,
)
from ed2.models.files.source import open_base
from ed2.models.files.tensor_file import mapped_tensors, write_single_file
from ed2.models.lora.file import checkpoint_layers, write_lora
from ed2.text import file_size

logger = logging.getLogger(__name__)

NICENESS = 10
"""How much the thread, and those that it computes with, yield to training."""
UNREADABLE = (ModelError, OSError, SafetensorError, ValueError)


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


@dataclass
class PredictionCheck:
    """Compares one single file of a run with its checkpoint, whose bytes were found to be those in memory.

    It computes on the CPU in a thread of its own, while training continues. A file whose predictions differ is renamed,
    and the next one is compared too.
    """

    _waiting: list[CheckpointSaved] = field(default_factory=list, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _is_over: bool = False

    def start(self, saved: CheckpointSaved, bus: EventBus) -> None:
        """Compare the single file of a checkpoint, if it has one, unless an earlier one is found to be sound."""
        with self._lock:
            if saved.single_file is None or self._is_over:
                return
            self._waiting.append(saved)
            if self._thread is None:
                self._thread = threading.Thread(target=self._compare_waiting, args=(bus,), name="checking")
                self._thread.start()

    def join(self) -> None:
        """Wait until no comparison is in progress."""
        while (thread := self._thread) is not None:
            thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C

    def _compare_waiting(self, bus: EventBus) -> None:
        _yield_to_training()
        while True:
            with self._lock:
                if self._is_over or not self._waiting:
                    self._thread = None
                    return
                saved = self._waiting.pop(0)
            outcome = _outcome_of(saved)
            bus.emit(outcome)
            self._is_over = isinstance(outcome, SingleFileChecked)


def _outcome_of(saved: CheckpointSaved) -> SingleFileChecked | Warned:
    """Compare a single file with its checkpoint: what it opens as, or that it was renamed."""
    single_file = saved.single_file
    assert single_file
    try:
        found = _compare(saved.path, single_file)
    except UNREADABLE as error:  # such as one that has been removed in the meantime
        found = f"prediction not compared: {_reason(error)}"
    except Exception as error:  # in a thread nobody else would see it
        logger.exception("The check of %s failed.", single_file)
        found = f"prediction not compared: {plain_reason(error)}"
    if isinstance(found, str):
        return SingleFileChecked(saved.step, single_file, f"opens as {saved.opens_as}; {found}")
    return Warned(saved.step, _renamed(single_file, saved.path, found))


def _compare(checkpoint: Path, single_file: Path) -> str | PartDifference:
    """What is to be said of a sound file, or the difference of one that is not.

    Raises:
        ModelError, OSError, SafetensorError, ValueError: one of the two cannot be read.
    """
    if is_lora_checkpoint(checkpoint):
        return "prediction not compared: a LoRA predicts nothing without its base"
    if is_pickle(single_file):
        return "prediction not compared: only that of a .safetensors is"
    saved, opened = open_base(checkpoint, {}), open_base(single_file, {})
    if reason := size_difference(saved, opened) or _memory_shortage(opened):
        return f"prediction not compared: {reason}"
    largest = 0.0
    for difference in compare_predictions(saved, opened):
        if not difference.is_equal:
            return difference
        largest = max(largest, difference.relative)
    if largest < 1e-6:
        return "prediction equal"
    return f"prediction equal, rounding aside ({largest:.1%})"


def _memory_shortage(opened: ModelSource) -> str:
    """Why there is not enough memory for the comparison; empty if there is."""
    required, free = MEMORY_MARGIN * comparison_bytes(opened), free_memory_bytes()
    if free > required:
        return ""
    return f"it needs {file_size(round(required))} of free memory, and {file_size(free)} is free"


def _renamed(single_file: Path, checkpoint: Path, difference: PartDifference) -> str:
    """Rename a file that predicts something else, so that nobody uses it; what happened, in sentences."""
    target = damaged_name(single_file)
    what = (
        f"The single file {single_file.name} does not predict what its checkpoint predicts: its {difference.part} is "
        f"off by {difference.relative:.1%}, where rounding explains {difference.tolerance:.1%}."
    )
    try:
        rename(single_file, target)
        done = f"It was renamed to {target.name}."
    except OSError as error:
        done = f"It could not be renamed ({plain_reason(error)}): do not use it."
    why = "The base model may have a configuration of its own, which a single file cannot hold."
    return f"{what} {done} {why} Use the checkpoint {checkpoint.name}, which is complete."


def _reason(error: BaseException) -> str:
    problems = getattr(error, "problems", ())
    return problems[0].what.rstrip(".") if problems else plain_reason(error)


def _yield_to_training() -> None:
    with suppress(AttributeError, OSError):  # Windows has no such call
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
