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
from safetensors.torch import save_file
from torch import Tensor

from ed2.checkpoint.folder import whole_folder, write_whole
from ed2.checkpoint.tensors import taken_apart
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved
from ed2.models.files import PARTS
from ed2.models.layout import sd2_yaml, single_file_tensors, write_single_file
from ed2.models.sd import StableDiffusion
from ed2.training.state import Run, TrainState

Kind = Literal["", "last", "interrupted", "errored"]

TRAINING_STATE = "training_state"
STATE_FILE = "state.json"
FORMAT = 1
RUN_KEY = "run"
"""Where a single file's metadata names the run that wrote it."""
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
        tensors = _on_cpu(model)
        try:
            if not target.exists():
                with whole_folder(target) as folder:
                    _write_model(folder, model, tensors)
                    self._write_training_state(folder / TRAINING_STATE, run)
            single = self._write_single(target.name, model, tensors)
            _thin_training_states(target.parent)
        except (OSError, RuntimeError, SafetensorError) as error:
            fix = "Free some space or choose another folder; training goes on and tries again."
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

    def _write_training_state(self, folder: Path, run: Run) -> None:
        folder.mkdir()
        numbers: dict[str, Any] = {}
        for network, optimizer in run.optimizers.by_network.items():
            tensors, numbers[network] = taken_apart(optimizer)
            save_file(tensors, folder / f"optimizer-{network}.safetensors")
        state = {
            "format": FORMAT,
            "saved_at": datetime.now(UTC).isoformat(),
            "run": self.run_dir.name,
            "state": run.state.as_dict(),
            "steps_per_epoch": run.steps_in(run.state.epoch),
            "metrics": run.metrics.state(),
            "scaler": run.precision.scaler.state_dict(),
            "optimizers": {
                n: {"class": type(o).__name__, "numbers": numbers[n]} for n, o in run.optimizers.by_network.items()
            },
            **self.about,
        }
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    def _write_single(self, name: str, model: StableDiffusion, tensors: PartTensors) -> Path | None:
        if self.single_dir is None:
            return None
        self.single_dir.mkdir(parents=True, exist_ok=True)
        path = self._free_name(self.single_dir / f"{name}.{self.single_format}")
        content = single_file_tensors(model.family, **tensors)
        metadata = {"format": "pt", RUN_KEY: self.run_dir.name}
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


def _on_cpu(model: StableDiffusion) -> dict[str, dict[str, Tensor]]:
    """Copy the weights of each part to the CPU: the trained ones in fp32, the others as the base had them."""
    parts = model.tensors()
    return {part: {name: tensor.detach().cpu().contiguous() for name, tensor in parts[part].items()} for part in parts}


def _write_model(folder: Path, model: StableDiffusion, tensors: PartTensors) -> None:
    for name, content in model.folder.small_files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for part, named in tensors.items():
        named = _classic_names(named) if part == "text_encoder" else dict(named)
        save_file(named, folder / part / f"{PARTS[part][1]}.safetensors", {"format": "pt"})


def _classic_names(text_encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that every program reads; transformers 5.6 and later leave `text_model.` out in memory."""
    return {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in text_encoder.items()}


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
        for part in file.parent.iterdir():
            part.unlink()
        file.parent.rmdir()
