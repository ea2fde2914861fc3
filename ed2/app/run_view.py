"""Events folded into a snapshot of the run, from the trainer's thread or from a run's folder."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import singledispatchmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ed2.app.reporters.jsonl import read_events
from ed2.app.reporters.log import describe_end, lines_of
from ed2.app.snapshot import (
    RUNNING,
    SECTIONS,
    Command,
    Curve,
    RunSnapshot,
    Section,
    ShownSample,
    State,
    next_state,
    require_legal,
)
from ed2.curve_names import IMAGES_PER_SECOND, LOSS, LOSS_EPOCH, main_lr
from ed2.errors import Problem
from ed2.events import (
    CheckpointChosen,
    CheckpointSaved,
    EpochEnded,
    Event,
    ImagesMeasured,
    MemoryMeasured,
    MetricsLogged,
    PhaseChanged,
    Progressed,
    RunEnded,
    RunStarted,
    SampleDrawn,
    SamplesMade,
    SavingChanged,
    StepDone,
    ValidationDone,
    Warned,
)

PAUSING = "pausing"
"""What the status line says first of a pause that was asked for."""
MAX_LOG_LINES = 200
MAX_TOLD_EVENTS = 1000
"""How many of the last events of a replayed run become lines of the log."""
MAX_CURVES = 24
"""More than a run has without a dozen validation folders; further ones are in TensorBoard."""
RATE_WEIGHT = 0.05
"""Weight of the newest step in the moving average of the step time."""


@dataclass
class RunView:
    """Folds events into a snapshot, under a lock.

    Attributes:
        clock: seconds; for tests.
    """

    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _shown: Any = field(default_factory=lambda: _fields_of(RunSnapshot()))
    _frozen: RunSnapshot | None = None
    _curves: dict[str, Curve] = field(default_factory=dict)
    _log: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    _step_at: float | None = None
    _epochs_done: int = 0

    def snapshot(self) -> RunSnapshot:
        """The run as it is now."""
        with self._lock:
            if self._frozen is None:  # a snapshot for each event of a long run would take most of the time of a replay
                shown = self._shown
                if self._curves:
                    shown.curves = {name: curve.thinned() for name, curve in self._curves.items()}
                shown.log = tuple(self._log)
                self._frozen = RunSnapshot(**{**vars(shown), "revisions": {**shown.revisions}})
            return self._frozen

    def change(self, *sections: Section, **changes: object) -> None:
        """Change the snapshot and count up the revisions of `sections`."""
        with self._lock:
            revisions = self._shown.revisions
            for section in sections:
                revisions[section] = revisions.get(section, 0) + 1
            vars(self._shown).update(changes)
            self._frozen = None

    def command(self, command: Command, **changes: object) -> None:
        """Change the snapshot for a command, if it is legal now: no event comes between. Raises RefusedError."""
        with self._lock:
            require_legal(command, self._shown.state)
            if changes:
                self.change("status", **changes)

    def clear(self, state: State, detail: str = "") -> None:
        """Forget the run that was shown: another one starts."""
        with self._lock:
            self._curves, self._step_at, self._epochs_done = {}, None, 0
            self._log.clear()
            old = self._shown
            kept = {"revisions": old.revisions, "sequence": old.sequence + 1, "memory": old.memory}
            self._shown = _fields_of(RunSnapshot(**kept, state=state, detail=detail))
            self.change("status", "loss", "samples", "log", "problems")

    def show(self, run: RunSnapshot) -> None:
        """Show a run that is not trained here; unchanged fields do not count as changed."""
        with self._lock:
            old = self.snapshot()
            continues = run.run_dir == old.run_dir and run.step >= old.step
            sequence = old.sequence if continues else old.sequence + 1
            self._curves, self._log = {}, deque(run.log, MAX_LOG_LINES)
            self._shown = _fields_of(replace(run, revisions={**old.revisions}, sequence=sequence, memory=old.memory))
            self._frozen = None
            new = self.snapshot()
            names = [item.name for item in fields(RunSnapshot)]
            changed = [name for name in names if getattr(new, name) != getattr(old, name)]
            self.change(*{SECTIONS.get(name, "status") for name in changed})

    def replay(self, run_dir: Path, until: int | None = None, *, has_curves: bool = True) -> None:
        """Fold the events recorded in a run's folder, up to step `until`; `has_curves` as for `read_events`."""
        last: deque[tuple[datetime, Event]] = deque(maxlen=MAX_TOLD_EVENTS)
        with self._lock:
            fold = self._fold  # looked up once: a long run has a hundred thousand events
            for moment, event in read_events(run_dir, has_curves=has_curves):
                if until is None or event.step <= until:
                    fold(event)
                    last.append((moment, event))
            for moment, event in last:
                self._say(event, moment.astimezone())
            self._step_at = None

    def show_resumed(self, run_dir: Path, until: int) -> None:
        """Show a run that resumes after step `until`, with its log from the start, and never as ended in between."""
        with self._lock:
            self.clear("preparing")
            self.replay(run_dir, until)
            self.change("status", "problems", state="preparing", problems=(), is_saving=False)

    def __call__(self, event: Event) -> None:
        """Fold an event."""
        with self._lock:
            self._fold(event)
            self._say(event, datetime.now().astimezone())

    def _add_to_curves(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            curve = self._curves.get(name)
            if curve is None and len(self._curves) < MAX_CURVES:
                curve = self._curves[name] = Curve()
            if curve is not None:
                curve.add(step, value)

    def _epoch_at(self, step: int) -> int | None:
        """The epoch of a step; a run's folder does not list every step, only when each epoch ended."""
        return self._shown.epoch if step <= self._shown.step else self._epochs_done + 1

    def _asked_later(self) -> str:
        """The request that is still pending: a pause, which has a phase of its own; any other has been carried out."""
        return self._shown.asked if self._shown.asked.startswith(PAUSING) else ""

    def _say(self, event: Event, moment: datetime) -> None:
        lines = [f"{moment:%H:%M:%S} {text}" for text in lines_of(event)]
        if lines:
            self._log.extend(lines)
            self.change("log")

    @singledispatchmethod
    def _fold(self, event: Event) -> None:
        """Events without a handler below appear only in the log."""

    @_fold.register
    def _(self, event: CheckpointChosen) -> None:
        self.show_resumed(event.run_dir, event.step)

    @_fold.register
    def _(self, event: RunStarted) -> None:
        self._epochs_done = event.epoch
        self.change(
            "status",
            project=event.project,
            run_dir=event.run_dir,
            device=event.device,
            step=event.step,
            total=event.total_steps,
            max_epochs=event.max_epochs,
            images=event.images,
        )

    @_fold.register
    def _(self, event: PhaseChanged) -> None:
        self._step_at = None
        state = next_state(self._shown.state, event.phase)
        if state is None:
            return
        asked = self._shown.asked if state in ("preparing", *RUNNING) else ""
        self.change("status", state=state, detail=event.detail, progress="", asked=asked)

    @_fold.register
    def _(self, event: Progressed) -> None:
        self.change("status", progress=f"{event.doing} {event.place:,} of {event.total:,}{event.left}")

    @_fold.register
    def _(self, event: StepDone) -> None:
        now, rate = self.clock(), self._shown.seconds_per_step
        if self._step_at is not None:
            seconds = now - self._step_at
            rate = seconds if rate is None else (1 - RATE_WEIGHT) * rate + RATE_WEIGHT * seconds
        self._step_at = now
        epoch, asked = event.epoch + 1, self._asked_later()
        self.change("status", step=event.step, epoch=epoch, progress="", seconds_per_step=rate, asked=asked)

    @_fold.register
    def _(self, event: MetricsLogged) -> None:
        values = event.values
        lr = main_lr(values)
        loss = values.get(LOSS, self._shown.loss)
        speed = values.get(IMAGES_PER_SECOND, self._shown.images_per_second)
        self._add_to_curves(event.step, values)
        self.change(
            "status",
            "loss",
            loss=loss,
            lr=self._shown.lr if lr is None else lr,
            images_per_second=speed,
            step=event.step,
            epoch=self._epoch_at(event.step),
        )

    @_fold.register
    def _(self, event: EpochEnded) -> None:
        self._epochs_done = event.epoch + 1
        self._add_to_curves(event.step, {LOSS_EPOCH: event.loss})
        self.change("status", "loss", step=event.step, epoch=self._epochs_done)

    @_fold.register
    def _(self, event: ValidationDone) -> None:
        self._step_at = None
        self._add_to_curves(event.step, event.values)
        self.change("status", "loss", progress="")

    @_fold.register
    def _(self, event: ImagesMeasured) -> None:
        self._step_at = None
        self.change("status", progress="")

    @_fold.register
    def _(self, event: SampleDrawn) -> None:
        drawn, samples = ShownSample(event.step, event.sample), list(self._shown.samples)
        same = [n for n, one in enumerate(samples) if (one.step, one.sample.index) == (event.step, event.sample.index)]
        if same:
            samples[same[-1]] = drawn
        else:
            samples.append(drawn)
        self.change("samples", samples=tuple(samples))

    @_fold.register
    def _(self, event: SamplesMade) -> None:
        made = tuple(ShownSample(event.step, sample) for sample in event.samples)
        before = self._shown.samples
        if before and before[-1].step >= event.step:  # else they are not searched: a run may have thousands
            before = tuple(shown for shown in before if shown.step != event.step)
        self._step_at = None
        self.change("samples", samples=before + made)

    @_fold.register
    def _(self, event: SavingChanged) -> None:
        self._step_at = None
        self.change("status", is_saving=event.is_saving, asked=self._asked_later())
        if self._shown.state == "stopping" and not event.is_saving:  # its detail was about the step before the save
            self.change(detail="ending the run")

    @_fold.register
    def _(self, event: CheckpointSaved) -> None:
        saves = (*self._shown.saves, event.step)
        self.change("status", "loss", checkpoint=event.path, single_file=event.single_file, saves=saves)

    @_fold.register
    def _(self, event: MemoryMeasured) -> None:
        others = tuple(peak for peak in self._shown.peaks if peak.what != event.what)
        self.change("memory", peaks=(*others, event))

    @_fold.register
    def _(self, event: Warned) -> None:
        problem, before = Problem(None, event.text, is_warning=True), self._shown.problems
        if event.ends or problem not in before:
            others = tuple(p for p in before if not p.is_warning or p.what not in (event.text, event.ends))
            new = () if event.is_resolved else (problem,)
            self.change("problems", problems=(*others[-9:], *new))

    @_fold.register
    def _(self, event: RunEnded) -> None:
        if event.checkpoint:  # a checkpoint that existed before the end has no event of its own
            self.change("status", checkpoint=event.checkpoint, single_file=event.single_file)
        self.change(
            "status",
            state=event.phase,
            detail=describe_end(event),
            step=event.step,
            epoch=self._epoch_at(event.step),
            is_saving=False,
            progress="",
            asked="",
            left_out=event.left_out,
            changed=event.changed,
        )
        if event.phase == "failed":
            self.change("problems", problems=(*self._shown.problems, Problem(None, describe_end(event))))


def _fields_of(snapshot: RunSnapshot) -> SimpleNamespace:
    """The fields of a snapshot, which can be changed."""
    values = {item.name: getattr(snapshot, item.name) for item in fields(RunSnapshot)}
    return SimpleNamespace(**{**values, "revisions": {**snapshot.revisions}})
