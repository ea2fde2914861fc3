"""Finding a checkpoint, and putting everything back that it holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ed2.checkpoint.saver import FORMAT, STATE_FILE, TRAINING_STATE, ema_file, trained_file
from ed2.checkpoint.tensors import put_back, tensors_are_whole
from ed2.errors import CheckpointError
from ed2.training.optimizers import averages, overwrite
from ed2.training.state import Run, TrainState


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of ours that a run can continue from.

    Attributes:
        path: its diffusers folder.
        values: what its training state says.
    """

    path: Path
    values: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Read the training state's description; None where `path` is no checkpoint of ours or lost its state.

        Raises:
            CheckpointError: it is damaged, or of a newer program.
        """
        file = path / TRAINING_STATE / STATE_FILE
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values.get("format") != FORMAT:
                fix = "Use the version of this program that wrote it, or add --weights_only."
                raise CheckpointError(f"{path.name} is of another version of this program", "", fix)
            TrainState.from_dict(values["state"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only to start anew from its weights."
            raise CheckpointError(f"The training state of {path.name} is damaged", f"{error!r}.", fix) from None
        return cls(path, values)

    @property
    def is_in_its_run(self) -> bool:
        """Whether it lies where it was written, in `ckpts` of its run's folder."""
        return self.path.parent.name == "ckpts" and self.run_dir.name == self.values.get("run")

    @property
    def run_dir(self) -> Path:
        """The folder of the run that wrote it."""
        return self.path.parent.parent

    @property
    def state(self) -> TrainState:
        """How far the run was."""
        return TrainState.from_dict(self.values["state"])

    @property
    def is_newest(self) -> bool:
        """Whether its run has gone no further in a later checkpoint."""
        steps = [other.state.step for other in checkpoints(self.run_dir)]
        return self.state.step >= max(steps, default=0)

    def restore(self, run: Run) -> list[str]:
        """Give `run`, built from this checkpoint's weights, its optimizers, scaler and metrics.

        Returns:
            Sentences on what could not be taken over because the settings are others now.

        Raises:
            CheckpointError: the state is damaged.
        """
        notes = []
        try:
            for name, optimizer in run.optimizers.by_network.items():
                saved = self.values["optimizers"].get(name, {"class": "no optimizer"})
                if saved["class"] != type(optimizer).__name__:
                    notes.append(
                        f"The {name} was trained by {saved['class']}: its {type(optimizer).__name__} begins anew."
                    )
                    continue
                tensors = load_file(self.path / TRAINING_STATE / f"optimizer-{name}.safetensors")
                put_back(optimizer, tensors, saved["numbers"], saved.get("options", ()))
                if averages(optimizer):
                    _read_trained(run.model.trained[name], self.path / TRAINING_STATE / trained_file(name))
            files = {name: self.path / TRAINING_STATE / ema_file(name) for name in run.optimizers.by_network}
            run.ema.restore({name: load_file(file) for name, file in files.items() if file.is_file()})
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only."
            raise CheckpointError(f"The training state of {self.path.name} is damaged", f"{error}.", fix) from None
        if run.precision.scaler.is_enabled() and self.values["scaler"]:
            run.precision.scaler.load_state_dict(self.values["scaler"])
        run.metrics.restore(self.values["metrics"])
        return notes


def _read_trained(network: nn.Module, file: Path) -> None:
    """Give a network the weights that its optimizer works on, where those in the checkpoint are their average."""
    tensors = load_file(file)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    overwrite(trained.values(), [tensors[name] for name in trained])


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """The checkpoints of a run that it can continue from, oldest first; damaged ones are passed over."""
    found = []
    for path in (run_dir / "ckpts").glob(f"[!.]*/{TRAINING_STATE}"):
        try:
            checkpoint = Checkpoint.open(path.parent)
        except CheckpointError:
            continue
        if checkpoint and tensors_are_whole(checkpoint.path):
            found.append(checkpoint)
    return sorted(found, key=_age)


def newest(logdir: Path) -> Checkpoint | None:
    """The checkpoint that was saved last under `logdir`; the last one of a run counts more than its copies."""
    runs = [path.parent for path in logdir.glob("*/ckpts") if path.is_dir()]
    return max((c for run_dir in runs for c in checkpoints(run_dir)), key=_age, default=None)


def _age(checkpoint: Checkpoint) -> tuple[str, int]:
    return str(checkpoint.values.get("saved_at", "")), checkpoint.state.step
