"""Saving a run: a diffusers folder to continue from or load anywhere, and a single file for a webui."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ed2.checkpoint.folder import whole_folder, write_whole
from ed2.checkpoint.tensors import changed_options, taken_apart, tensors_are_whole, write_tensors
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved
from ed2.models.files import EXTRA_FILE, PARTS
from ed2.models.layout import sd2_yaml, single_file_tensors, write_single_file
from ed2.models.sd import StableDiffusion
from ed2.training.optimizers import averages
from ed2.training.state import Run, TrainState

PREDICTION_KEY = "prediction_type"
"""Where a single file's metadata says what the model predicts."""

Kind = Literal["", "last", "interrupted", "errored"]

TRAINING_STATE = "training_state"
STATE_FILE = "state.json"
FORMAT = 1
RUN_KEY = "run"
"""Where a single file's metadata names the run that wrote it."""
EMA_SUFFIX = "_ema"
"""Ends the name of a checkpoint of averaged weights."""
STATES_KEPT = 3
"""How many of the newest checkpoints keep their training state."""

PartTensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the checkpoints of one run.

    Attributes:
        run_dir: the run's folder.
        project: the beginning of the names.
        single_dir: folder of the single files; None writes none.
        single_format: container of the single file.
        single_dtype: its precision.
        prepend_last: whether the last checkpoint's name begins with `last-`.
        about: goes into the training state beside what the run itself knows: seed, fingerprint of the dataset.
    """

    run_dir: Path
    project: str
    single_dir: Path | None
    single_format: Literal["safetensors", "ckpt"] = "safetensors"
    single_dtype: torch.dtype = torch.float16
    prepend_last: bool = True
    about: Mapping[str, Any]

    def name(self, state: TrainState, kind: Kind) -> str:
        """The name of a checkpoint: `last-myproj-ep59-gs00600` after the 60th epoch."""
        prefix = f"{kind}-" if kind and not (kind == "last" and not self.prepend_last) else ""
        epoch = state.epoch - 1 if state.epoch_ended else state.epoch
        return f"{prefix}{self.project}-ep{epoch:02d}-gs{state.step:05d}"

    def save(self, run: Run, kind: Kind = "") -> CheckpointSaved:
        """Write a checkpoint of `run` as it is now.

        Raises:
            CheckpointError: it could not be written; what was there before is unchanged.
        """
        started = time.monotonic()
        target = self.run_dir / "ckpts" / self.name(run.state, kind)
        model = run.model
        try:
            with run.optimizers.averaged():
                tensors = _on_cpu(model)
            _set_aside_damaged(target)
            if not target.exists():
                with whole_folder(target) as folder:
                    _write_model(folder, model, tensors)
                    self._write_training_state(folder / TRAINING_STATE, run)
            single = self._write_single(target.name, model, tensors)
            if average := run.ema.state():
                self._write_average(target.with_name(f"{target.name}{EMA_SUFFIX}"), model, tensors, average)
            _thin_training_states(target.parent)
        except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
            fix = "Free some space, or choose another folder."
            raise CheckpointError(f"The checkpoint {target.name} could not be written", f"{error}.", fix) from error
        size = sum(
            file.stat().st_size for file in (*target.rglob("*"), *([single] if single else [])) if file.is_file()
        )
        return CheckpointSaved(
            step=run.state.step,
            epoch=run.state.epoch,
            kind=kind,
            path=target,
            single_file=single,
            bytes_written=size,
            seconds=time.monotonic() - started,
        )

    def saved_already(self, state: TrainState) -> CheckpointSaved | None:
        """What was written of this very step, if it is whole: another copy of it would be of no use."""
        for folder in (self.run_dir / "ckpts").glob(f"[!.]*-gs{state.step:05d}"):
            if (folder / TRAINING_STATE / STATE_FILE).is_file() and tensors_are_whole(folder):
                return CheckpointSaved(state.step, state.epoch, "", folder, None, 0, 0.0)
        return None

    def require_export(self, model: StableDiffusion) -> None:
        """Put the names of `model` into those of a single file, on no memory.

        Raises:
            ModelError: they have no place there.
        """
        if self.single_dir is not None:
            names = {part: {n: t.to("meta") for n, t in named.items()} for part, named in model.tensors().items()}
            single_file_tensors(model.family, **names)

    def _write_average(self, target: Path, model: StableDiffusion, tensors: PartTensors, average: PartTensors) -> None:
        """Write the same checkpoint with the average in place of what was trained, and no training state."""
        averaged = {part: {**named, **average.get(part, {})} for part, named in tensors.items()}
        if not target.exists():
            with whole_folder(target) as folder:
                _write_model(folder, model, averaged)
        self._write_single(target.name, model, averaged)

    def _write_training_state(self, folder: Path, run: Run) -> None:
        folder.mkdir()
        numbers: dict[str, Any] = {}
        for network, optimizer in run.optimizers.by_network.items():
            tensors, numbers[network] = taken_apart(optimizer)
            write_tensors(folder / f"optimizer-{network}.safetensors", tensors)
            if averages(optimizer):
                write_tensors(folder / trained_file(network), _trained(run.model.trained[network]))
        for network, average in run.ema.state().items():
            write_tensors(folder / ema_file(network), average)
        state = {
            "format": FORMAT,
            "saved_at": datetime.now(UTC).isoformat(),
            "run": self.run_dir.name,
            "state": run.state.as_dict(),
            "steps_per_epoch": run.steps_in(run.state.epoch),
            "metrics": run.metrics.state(),
            "scaler": run.precision.scaler.state_dict(),
            "optimizers": {
                name: {
                    "class": type(optimizer).__name__,
                    "numbers": numbers[name],
                    "options": changed_options(optimizer),
                }
                for name, optimizer in run.optimizers.by_network.items()
            },
            **self.about,
        }
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    def _write_single(self, name: str, model: StableDiffusion, tensors: PartTensors) -> Path | None:
        if self.single_dir is None:
            return None
        self.single_dir.mkdir(parents=True, exist_ok=True)
        path = self._free_name(self.single_dir / f"{name}.{self.single_format}")
        content = single_file_tensors(model.family, **tensors, extra=model.extra)
        metadata = {
            "format": "pt",
            RUN_KEY: self.run_dir.name,
            PREDICTION_KEY: model.noise_schedule.prediction_type,
        }
        write_single_file(path, content, metadata, dtype=self.single_dtype)
        if model.family == "sd2":
            text = sd2_yaml(model.noise_schedule.prediction_type)
            write_whole(path.with_suffix(".yaml"), text.encode())
        return path

    def _free_name(self, path: Path) -> Path:
        """`path`, or with a number where another run wrote a file of that name."""
        candidate, number = path, 1
        while candidate.exists() and _writer_of(candidate) != self.run_dir.name:
            number += 1
            candidate = path.with_stem(f"{path.stem} ({number})")
        return candidate


def trained_file(network: str) -> str:
    """Name of the file that holds a network's weights as trained, where the checkpoint holds their average."""
    return f"trained-{network}.safetensors"


def ema_file(network: str) -> str:
    """Name of the file that holds the moving average of a network's weights."""
    return f"ema-{network}.safetensors"


def _trained(network: nn.Module) -> dict[str, Tensor]:
    """The trained parameters of a network on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in network.named_parameters() if p.requires_grad}


def _on_cpu(model: StableDiffusion) -> dict[str, dict[str, Tensor]]:
    """Copy the weights of each part to the CPU: the trained ones in fp32, the others as the base had them."""
    parts = model.tensors()
    return {part: {name: tensor.detach().cpu().contiguous() for name, tensor in parts[part].items()} for part in parts}


def _write_model(folder: Path, model: StableDiffusion, tensors: PartTensors) -> None:
    for name, content in model.folder.small_files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if model.extra:
        write_tensors(folder / EXTRA_FILE, model.extra)
    for part, named in tensors.items():
        named = _classic_names(named) if part == "text_encoder" else dict(named)
        write_tensors(folder / part / f"{PARTS[part][1]}.safetensors", named)


def _classic_names(text_encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that every program reads; transformers 5.6 and later leave `text_model.` out in memory."""
    return {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in text_encoder.items()}


def _set_aside_damaged(target: Path) -> None:
    """Free the name of a checkpoint that was damaged after it was written."""
    state = target / TRAINING_STATE / STATE_FILE
    try:
        is_sound = not target.exists() or (bool(json.loads(state.read_bytes())) and tensors_are_whole(target))
    except (OSError, ValueError):
        is_sound = not state.parent.exists() and tensors_are_whole(target)
    if not is_sound:
        target.rename(target.with_name(f".damaged-{time.time_ns()}-{target.name}"))


def _writer_of(single_file: Path) -> str | None:
    """The run that wrote a single file, None where it does not say."""
    if single_file.suffix != ".safetensors":
        return None
    try:
        with safe_open(single_file, framework="pt") as tensors:
            return (tensors.metadata() or {}).get(RUN_KEY)
    except (SafetensorError, OSError):
        return None


def _thin_training_states(checkpoints: Path) -> None:
    """Remove the training state of all but the newest checkpoints; their weights stay."""
    states = sorted(checkpoints.glob(f"[!.]*/{TRAINING_STATE}/{STATE_FILE}"), key=lambda file: file.stat().st_mtime)
    for file in states[:-STATES_KEPT]:
        file.unlink()  # first: without it nothing takes the rest for a state
        for part in file.parent.iterdir():
            part.unlink()
        file.parent.rmdir()
