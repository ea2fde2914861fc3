"""Real runs of the trainer on tiny models, in this process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from ed2.app.run import run_training
from ed2.app.run_settings import effective_settings
from ed2.events import Event, EventBus, RunEnded, RunStarted, StepDone, Warned
from ed2.training.controls import Controls
from tests.unchanged import unchanged

E = TypeVar("E", bound=Event)
Values = dict[str, object]
"""Settings by their flat names."""
PARTS = {
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "vae": "diffusion_pytorch_model",
}
"""Every part that a model may have, with the stem of its file."""


@dataclass
class Trained:
    """A run that has ended, and all that it said."""

    ended: RunEnded
    events: list[Event] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.of(RunStarted)[0].run_dir

    @property
    def checkpoint(self) -> Path:
        assert self.ended.checkpoint, self.ended
        return self.ended.checkpoint

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def train(
    values: Values,
    *,
    stop_at: int | None = None,
    observer: Callable[[Event], None] | None = None,
    controls: Controls | None = None,
) -> Trained:
    """Run the trainer with these settings, flat; stop after step `stop_at` as Ctrl-C does, or by the test's `controls`.

    The files of the dataset are held to stay as they are.
    """
    bus, controls, events = EventBus(), controls or Controls(), list[Event]()

    def watch(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepDone) and event.step == stop_at:
            controls.stop(2)

    bus.subscribe(watch)
    if observer:
        bus.subscribe(observer)
    roots = values.get("data_root") or effective_settings(values, None).settings.data.data_root
    assert isinstance(roots, list | tuple)
    with unchanged(*map(Path, roots)):
        return Trained(run_training(values, None, bus=bus, controls=controls), events)


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, optimizer included, by its file and name."""
    files = [checkpoint / part / f"{stem}.safetensors" for part, stem in PARTS.items() if (checkpoint / part).is_dir()]
    files += sorted((checkpoint / "training_state").glob("*.safetensors"))
    return {f"{file.parent.name}/{file.stem}/{name}": t for file in files for name, t in load_file(file).items()}


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors whose bytes differ between two checkpoints."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return [name for name in a if raw(a[name]) != raw(b[name])]


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any type."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def said(trained: Trained) -> str:
    """Everything that a run warned of and noted at its start."""
    return "\n".join([*(warned.text for warned in trained.of(Warned)), *trained.of(RunStarted)[0].notes])
