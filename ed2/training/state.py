"""Where a run is, and what it is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol, Self

from ed2.data.batch import Batch
from ed2.data.loader import Loader
from ed2.errors import shown
from ed2.events import Event, EventBus
from ed2.models.base import DiffusionModel
from ed2.models.compute import Precision
from ed2.ranks.base import Ranks
from ed2.training.controls import Controls, Request
from ed2.training.ema import Average, NoEma
from ed2.training.metrics import Metrics
from ed2.training.objective import Objective
from ed2.training.optimizers import Optimizers
from ed2.training.update import Update

CHECKPOINT = "checkpoint"
SAMPLES = "samples"
VALIDATION = "validation"
IMAGE_LOSSES = "image losses"
REQUESTED_JOBS: Mapping[Request, str] = {"save": CHECKPOINT, "sample": SAMPLES}
"""The job that carries out each request."""
_OTHER_KINDS: Mapping[str, Any] = {"seconds": float | int, "at_once": int | None, "best_loss": float | int | None}
"""Types that fields of `TrainState` may have besides that of their default."""


@dataclass
class TrainState:
    """The progress of a run: everything that a resume needs besides weights and optimizer.

    Attributes:
        step: optimizer steps attempted.
        epoch: whole epochs done.
        position: steps done in the current epoch; 0 right after an epoch ended.
        images_seen: images that went through the model.
        seconds: time spent in earlier sessions of the same run.
        bad_steps: steps in a row whose numbers were not finite.
        at_once: most images in one pass, because more ran out of memory; None for whole batches.
        checkpointing: whether gradient checkpointing was turned on after running out of memory.
        is_exact: false once a batch was split, which gives the same gradient but not the same bytes.
        lost: the epoch in which each damaged image was found, by the image's key; later epochs leave it out.
        best_loss: the lowest validation loss so far; None before the first validation.
        best_step: the step of that validation.
        without_improvement: validations since then.
        cut_short: names of the jobs that a stop interrupted after the last step; a resumed run performs them first.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    at_once: int | None = None
    checkpointing: bool = False
    is_exact: bool = True
    best_loss: float | None = None
    best_step: int = 0
    without_improvement: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    cut_short: list[str] = field(default_factory=list)

    def due_at_start(self, job: str) -> bool:
        """Whether a job is due before the first step: in a new run, or if a stop interrupted it. Clears the latter."""
        is_due = self.step == 0 or job in self.cut_short
        self.cut_short = [other for other in self.cut_short if other != job]
        return is_due

    def count(self, batches: Sequence[Batch], steps_in_epoch: int) -> None:
        """Count one step over `batches`; the epoch, of `steps_in_epoch` steps, turns at its last one."""
        self.step += 1
        self.cut_short = []
        self.images_seen += sum(len(batch.captions) for batch in batches)
        self.position += 1
        if self.position >= steps_in_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def validated(self, loss: float) -> None:
        """Count a validation of this step."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.without_improvement = loss, self.step, 0
        else:
            self.without_improvement += 1

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.step > 0 and self.position == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Load from JSON values. Raises TypeError if one of them has the wrong type."""
        state, usual = cls(**values), cls()
        for own in fields(cls):
            kinds = _OTHER_KINDS.get(own.name, type(getattr(usual, own.name)))
            if not isinstance(getattr(state, own.name), kinds):
                raise TypeError(f"{own.name} is {shown(getattr(state, own.name))}")
        if not all(isinstance(what, str) for what in state.cut_short):
            raise TypeError(f"cut_short is {shown(state.cut_short)}")
        if not all(isinstance(epoch, int) for epoch in state.lost.values()):
            raise TypeError(f"lost is {shown(state.lost)}")
        return state


class Job(Protocol):
    """Something that some steps do besides training: metrics, samples, checkpoints.

    Attributes:
        name: unique in a run; `TrainState.cut_short` holds it.
    """

    name: str

    def due(self, state: TrainState) -> bool:
        """Whether to run after the step that `state` counts."""
        ...

    def perform(self, state: TrainState) -> Event | None:
        """Do the work and return the event for the observers."""
        ...

    def at_start(self, state: TrainState) -> Event | None:
        """Do what is due before the first step of a new or resumed run; most jobs do nothing."""
        return None


@dataclass
class Run:
    """Everything that the loop works on, complete when `ed2.app.build` returns it.

    Attributes:
        make_jobs: the factories of its jobs.
        steps_in: optimizer steps of an epoch, which may differ between epochs; 0 if an epoch shows no image.
        jobs: in the order in which they run after a step.
        ended_early: why it is over before its last epoch; empty if it is not. Set at the end of an epoch.
        ranks: the processes that train it; `data`, `update` and `retry_on_oom` make their steps one.
    """

    model: DiffusionModel
    data: Loader
    objective: Objective
    precision: Precision
    optimizers: Optimizers
    update: Update
    metrics: Metrics
    bus: EventBus
    controls: Controls
    state: TrainState
    max_epochs: int
    steps_in: Callable[[int], int]
    images_per_step: int
    make_jobs: InitVar[Sequence[Callable[["Run"], Job]]] = ()
    ema: Average = field(default_factory=NoEma)
    ranks: Ranks = field(default_factory=Ranks)
    jobs: tuple[Job, ...] = field(init=False)
    ended_early: str = ""

    def __post_init__(self, make_jobs: Sequence[Callable[["Run"], Job]]) -> None:
        self.jobs = tuple(make(self) for make in make_jobs)

    def requested(self, request: Request) -> Job:
        """The job that carries out a request."""
        return next(job for job in self.jobs if job.name == REQUESTED_JOBS[request])

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run: done and left."""
        left = sum(self.steps_in(epoch) for epoch in range(self.state.epoch, self.max_epochs))
        return self.state.step + left - self.state.position

    @property
    def updates(self) -> int:
        """Updates done as schedules count them, by epochs, whatever the batches were like before a resume."""
        return sum(map(self.steps_in, range(self.state.epoch))) + self.state.position

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the run has ended early."""
        return bool(self.ended_early) or self.state.epoch >= self.max_epochs
