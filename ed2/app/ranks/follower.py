"""What the processes of a run do besides the first: train as it does, and say what it should know."""

import logging
import sys
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ed2.app.build import build
from ed2.app.images.scanning import ImageFaults
from ed2.app.jobs import METERS, RunContext
from ed2.app.run_spec import RunSpec, spec_of
from ed2.app.signals import stopping_on_signals
from ed2.checkpoint.optimizer_state import OPTIMIZER_STATE, own_state
from ed2.errors import RankError, RunLeft
from ed2.events import Event, EventBus, Warned
from ed2.models.compute import quiet_libraries
from ed2.models.memory import release_memory
from ed2.ranks.base import Message, RankAnswer
from ed2.ranks.group import Follower
from ed2.sampling.adaptive import AdaptiveSampler
from ed2.sampling.sampler import SampleOptions
from ed2.sampling.sharing import SHARED_SAMPLES, drawn_samples
from ed2.training.controls import Controls
from ed2.training.loop import train
from ed2.training.state import Run, TrainState

logger = logging.getLogger(__name__)


class FollowerControls(Controls):
    """Requests come to rank 0; the others only leave a run when it does."""

    def __init__(self, ranks: Follower) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def stopping(self) -> bool:
        """Whether rank 0 no longer waits for what it has asked for."""
        return self._ranks.has_message()

    def raise_if_stopping(self) -> None:
        """Leave the run if rank 0 has left it. Raises RunLeft, RankError."""
        self._ranks.look()


def follow(ranks: Follower) -> int:
    """Train what rank 0 trains until there is nothing more; returns the exit code."""
    quiet_libraries()
    with closing(ranks), stopping_on_signals(lambda number: _ask_to_stop(ranks, number), ""):
        try:
            while (message := ranks.next_run()) is not None:
                _follow_run(ranks, message)
        except RankError as error:
            print(f"Process {ranks.rank} of {ranks.size}: {error}", file=sys.stderr)
            return 1
    return 0


def _ask_to_stop(ranks: Follower, signal_number: int) -> None:
    """Have rank 0 stop the run; in a thread, since this one may be sending something."""

    def ask() -> None:
        with suppress(RankError):
            ranks.say_aside({"stop": signal_number})

    threading.Thread(target=ask, name="stop").start()


def _follow_run(ranks: Follower, message: Message) -> None:
    """Train a run until rank 0 leaves it. Raises RankError if there is no rank 0 any more."""
    try:
        _train(ranks, message)
        ranks.wait_until_left()
        return
    except RunLeft:
        return
    except Exception as error:
        logger.error("Process %d failed.", ranks.rank, exc_info=error)
        failure = error.with_traceback(None)  # it holds on to the memory of its step
    ranks.fail(failure)


@dataclass(frozen=True)
class Answers:
    """Does what rank 0 asks for."""

    run: Run
    spec: RunSpec
    context: RunContext
    adaptive: AdaptiveSampler

    def __call__(self, what: str, say: Message) -> RankAnswer:
        """Return what it needs."""
        if what == OPTIMIZER_STATE:
            return own_state(self.run.optimizers)
        with self.run.optimizers.averaged():
            if what in METERS:
                return METERS[what](self.run, self.spec, self.context).answer(say)
            assert what == SHARED_SAMPLES
            return self._samples(say)

    def _samples(self, say: Message) -> RankAnswer:
        options = SampleOptions(
            autocast=self.run.precision.autocast, should_stop=lambda: self.context.controls.stopping
        )
        return drawn_samples(self.run.model, self.context.ranks, self.adaptive, options, say)


def _train(ranks: Follower, message: Message) -> None:
    spec, bus = spec_of(message, ranks), EventBus()
    context = RunContext(
        run_dir=Path(message["run_dir"]),
        bus=bus,
        controls=FollowerControls(ranks),
        state=TrainState.from_dict(message["state"]),
        faults=ImageFaults(EventBus()),  # rank 0 hears of them in another way, and counts them
        ranks=ranks,
    )

    def say_warnings(event: Event) -> None:
        if isinstance(event, Warned):
            ranks.say_aside({"warned": event.text})

    bus.subscribe(say_warnings)
    release_memory(spec.machine.device)
    with spec.machine.computing(spec.settings.memory):
        run = build(spec, context)
        ranks.on_ask = Answers(run, spec, context, AdaptiveSampler(run.model.size_multiple))
        with run.data:
            for job in run.jobs:
                bus.emit(job.at_start(run.state))
            train(run)
