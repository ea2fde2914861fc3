"""What pages show of a run, frozen: its state, figures, curves, samples, log and problems."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ed2.app.curve import ThinnedCurve
from ed2.app.phases import ACTIVE, COMMANDS, Command, State
from ed2.errors import Problem
from ed2.events import MemoryMeasured, Sample
from ed2.vram.sampler import MemoryUse

Section = Literal["status", "loss", "samples", "log", "memory", "problems"]

SECTIONS: Mapping[str, Section] = {
    "curves": "loss",
    "saves": "loss",
    "samples": "samples",
    "log": "log",
    "peaks": "memory",
    "problems": "problems",
}
"""The section of each field that does not belong to "status"."""


@dataclass(frozen=True)
class ShownSample:
    """One sample image and the step that it was drawn at."""

    step: int
    sample: Sample


@dataclass(frozen=True)
class RunSnapshot:
    """Everything that a page shows; a section has changed if its number in `revisions` differs.

    Attributes:
        detail: on the state, for people.
        epoch: the one that the last step belongs to, from 1; None before the first step.
        progress: progress within the phase, for people; empty while there is nothing to count.
        asked: the pending request that the run will carry out at its next chance, for people.
        elsewhere: the other program that trains the run; empty where there is none.
        sequence: another number means that curves and samples do not continue what was shown before.
        curves: what was measured, by the name of the curve.
        saves: the steps that checkpoints were saved at.
    """

    revisions: Mapping[Section, int] = field(default_factory=dict)
    sequence: int = 0
    state: State = "idle"
    detail: str = ""
    is_saving: bool = False
    project: str = ""
    run_dir: Path | None = None
    device: str = ""
    step: int = 0
    total: int = 0
    epoch: int | None = None
    max_epochs: int = 0
    progress: str = ""
    asked: str = ""
    elsewhere: str = ""
    images: int = 0
    images_per_second: float | None = None
    seconds_per_step: float | None = None
    loss: float | None = None
    lr: float | None = None
    curves: Mapping[str, ThinnedCurve] = field(default_factory=dict)
    saves: tuple[int, ...] = ()
    samples: tuple[ShownSample, ...] = ()
    log: tuple[str, ...] = ()
    checkpoint: Path | None = None
    single_file: Path | None = None
    memory: MemoryUse | None = None
    peaks: tuple[MemoryMeasured, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: int = 0
    changed: int = 0

    @property
    def revision(self) -> int:
        """Increases with every change."""
        return sum(self.revisions.values())

    def allows(self, command: Command) -> bool:
        """Whether a command is legal now."""
        return self.state in COMMANDS[command]

    @property
    def is_active(self) -> bool:
        """Whether a run is in progress."""
        return self.state in ACTIVE

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step at the current speed; None while that is unknown, and after that step."""
        if self.seconds_per_step is None or not self.is_active or self.step >= self.total:
            return None
        return (self.total - self.step) * self.seconds_per_step
