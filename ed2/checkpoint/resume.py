"""A checkpoint to continue from, and putting everything back that it holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ed2.checkpoint.folder import find_damage
from ed2.checkpoint.identity import STATE_FILE, TRAINING_STATE, is_in_its_run, read_manifest
from ed2.checkpoint.snapshot import FORMATS_READ, ema_stem, trained_stem
from ed2.checkpoint.tensors import put_back
from ed2.errors import CheckpointError, shown
from ed2.small_files import read_object
from ed2.training.optimizers import averages, overwrite
from ed2.training.state import Run, TrainState

_KINDS = {"steps_per_epoch": int, "metrics": dict, "scaler": dict, "optimizers": dict, "versions": dict}
"""What the description of a training state holds, and what each of it is."""


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
            values = read_object(file)
            if values.get("format") not in FORMATS_READ:
                fix = "Use the version of this program that wrote it, or add --weights_only."
                raise CheckpointError(f"{path.name} is of another version of this program", "", fix)
            _require_shape(values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only to start anew from its weights."
            raise CheckpointError(f"The training state of {path.name} is damaged", f"{error!r}.", fix) from None
        return cls(path, values)

    @property
    def manifest(self) -> dict[str, Any]:
        """What its manifest says; empty where it has none that can be read."""
        try:
            return read_manifest(self.path)
        except (OSError, ValueError):
            return {}

    @property
    def is_in_its_run(self) -> bool:
        """Whether it lies where it was written, in `ckpts` of its run's folder, whatever that is called by now."""
        return is_in_its_run(self.path, self.values)

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
        """Whether its run has gone no further in a later checkpoint; what stands in the files is not read for that."""
        paths = (self.run_dir / "ckpts").glob(f"[!.]*/{TRAINING_STATE}")
        for checkpoint in [path.parent for path in paths]:
            damage = find_damage(checkpoint, is_quick=True)
            if damage and not damage.is_unreadable:
                continue
            other = open_or_none(checkpoint)
            if other and other.state.step > self.state.step:
                return False
        return True

    def restore(self, run: Run) -> list[str]:
        """Give `run`, built from this checkpoint's weights, its optimizers, scaler and metrics.

        Returns:
            Sentences on what could not be taken over because the settings are others now.

        Raises:
            CheckpointError: the state is damaged.
        """
        notes = []
        state_dir = self.path / TRAINING_STATE
        try:
            for name, optimizer in run.optimizers.by_network.items():
                saved = self.values["optimizers"].get(name, {"class": "no optimizer"})
                if saved["class"] != type(optimizer).__name__:
                    notes.append(
                        f"The {name} was trained by {saved['class']}: its {type(optimizer).__name__} begins anew."
                    )
                    continue
                tensors = load_file(state_dir / f"optimizer-{name}.safetensors")
                put_back(optimizer, tensors, saved["numbers"], saved.get("options", ()))
                if averages(optimizer):
                    _read_trained(run.model.trained[name], state_dir / f"{trained_stem(name)}.safetensors")
            files = {name: state_dir / f"{ema_stem(name)}.safetensors" for name in run.optimizers.by_network}
            run.ema.restore({name: load_file(file) for name, file in files.items() if file.is_file()})
            if run.precision.scaler.is_enabled() and self.values["scaler"]:
                run.precision.scaler.load_state_dict(self.values["scaler"])
            run.metrics.restore(self.values["metrics"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only."
            raise CheckpointError(f"The training state of {self.path.name} is damaged", f"{error}.", fix) from None
        return notes


def _require_shape(values: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError where a training state lacks what is relied on, or holds something else there."""
    TrainState.from_dict(values["state"])
    for name, kind in _KINDS.items():
        if not isinstance(values.get(name, kind()), kind):
            raise TypeError(f"{name} is {shown(values[name])}")


def _read_trained(network: nn.Module, file: Path) -> None:
    """Give a network the weights that its optimizer works on, where those in the checkpoint are their average."""
    tensors = load_file(file)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    overwrite(trained.values(), [tensors[name] for name in trained])


def open_or_none(path: Path) -> Checkpoint | None:
    """A checkpoint that this program can continue from, as far as its description tells."""
    try:
        return Checkpoint.open(path)
    except CheckpointError:
        return None
