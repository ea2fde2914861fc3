"""What the processes of a run do besides training.

Rank 0 listens to the others, and to the program that started it. The others train what it trains, do what it asks for,
and report warnings and signals to it.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from typing import BinaryIO

from ed2.app.build import build
from ed2.app.images.scanning import ImageFaults
from ed2.app.jobs import METERS, RunContext
from ed2.app.ranks.messages import PipeMessage, decoded, encoded, error_message, event_message
from ed2.app.run import run_training
from ed2.app.run_spec import RunSpec, spec_of
from ed2.app.signals import end_when_silent, stopping_on_signals
from ed2.checkpoint.optimizer_state import OPTIMIZER_STATE, own_state
from ed2.errors import RankError, RunLeft, StopRequested
from ed2.events import Event, EventBus, Warned
from ed2.models.memory import release_memory
from ed2.ranks.base import Message, RankAnswer
from ed2.ranks.group import Follower, Leader, join
from ed2.ranks.place import RankPlace
from ed2.sampling.adaptive import AdaptiveSampler
from ed2.sampling.sampler import SampleOptions
from ed2.sampling.sharing import SHARED_SAMPLES, drawn_samples
from ed2.training.controls import Controls
from ed2.training.loop import train
from ed2.training.state import Run, TrainState

logger = logging.getLogger(__name__)


@dataclass
class Notices:
    """Acts on what other processes report: repeats warnings that this one has not given, and stops if one has to."""

    bus: EventBus
    controls: Controls
    _step: int = 0
    _texts: set[str] = field(default_factory=set)

    def watch(self, event: Event) -> None:
        """Remember what was reported, and the step."""
        self._step = event.step
        if isinstance(event, Warned):
            self._texts.add(event.text)

    def __call__(self, notice: Message) -> None:
        """Act on a notice of another process."""
        if "stop" in notice:
            self.controls.stop(notice["stop"])
        text = notice.get("warned")
        if text and text not in self._texts:
            self.bus.emit(Warned(self._step, text))


@contextmanager
def led_ranks(place: RankPlace, bus: EventBus, controls: Controls) -> Iterator[Leader]:
    """The processes of the run, of which this is the first. Raises RankError."""
    ranks, notices = join(place), Notices(bus, controls)
    assert isinstance(ranks, Leader)
    bus.subscribe(notices.watch)
    ranks.on_notice = notices
    with closing(ranks):
        yield ranks


class Sender:
    """Sends messages through what was the standard output; what else is printed goes to the standard error.

    Once nobody reads them, they are dropped: the run is about to be stopped then.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def __call__(self, event: Event) -> None:
        """Send an event, from any thread."""
        self.send(event_message(event))

    def send(self, message: PipeMessage) -> None:
        """Send a message, from any thread."""
        line = encoded(message)
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                self._file = None


def train_for_parent(place: RankPlace) -> int:
    """Train with the settings that come first, and follow the orders that come after them; returns the exit code."""
    sender, controls = Sender(), Controls()
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 -- a buffer would hold a lock at the exit
    try:
        values = decoded(orders.readline())
        bus = EventBus([sender])

        def take_orders() -> None:
            follow_orders(orders.readline, controls)
            end_when_silent(bus)

        threading.Thread(target=take_orders, name="orders", daemon=True).start()
        with stopping_on_signals(controls.stop, ""), led_ranks(place, bus, controls) as ranks:
            ended = run_training(values, None, bus=bus, controls=controls, ranks=ranks)
    except (Exception, StopRequested) as error:
        message = error_message(error)
        if isinstance(error, Exception) and "problems" not in message:
            logger.exception("The run could not start.")
        sender.send(message)
        return 1
    return int(ended.phase == "failed")


def follow_orders(read_line: Callable[[], bytes], controls: Controls) -> None:
    """Pass orders on to the run until there can be no more; the other program has ended then, and the run stops."""
    while line := read_line():
        with suppress(ValueError, KeyError, TypeError):
            follow_order(decoded(line), controls)
    controls.stop(SIGTERM)


def follow_order(order: PipeMessage, controls: Controls) -> None:
    """Do what is ordered. Raises ValueError, KeyError or TypeError for anything else."""
    match order["order"]:
        case "stop":
            controls.stop(int(order["signal"]), save=bool(order["save"]))
        case "pause":
            controls.pause()
        case "resume":
            controls.resume()
        case "save" | "sample" as request:
            controls.ask(request)
        case other:
            raise ValueError(f"{other} is not an order")


class FollowerControls(Controls):
    """Requests come to rank 0; the others only leave a run when it does."""

    def __init__(self, ranks: Follower) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def stopping(self) -> bool:
        """Whether rank 0 no longer waits for its last request."""
        return self._ranks.has_message()

    def raise_if_stopping(self) -> None:
        """Leave the run if rank 0 has left it. Raises RunLeft, RankError."""
        self._ranks.raise_if_left()


def follow(ranks: Follower) -> int:
    """Train what rank 0 trains until there is nothing more; returns the exit code."""
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
            ranks.notify({"stop": signal_number})

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

    def __call__(self, what: str, request: Message) -> RankAnswer:
        """Return what it needs."""
        if what == OPTIMIZER_STATE:
            return own_state(self.run.optimizers)
        with self.run.optimizers.averaged():
            if what in METERS:
                return METERS[what](self.run, self.spec, self.context).answer(request)
            assert what == SHARED_SAMPLES
            return self._samples(request)

    def _samples(self, request: Message) -> RankAnswer:
        options = SampleOptions(
            autocast=self.run.precision.autocast, should_stop=lambda: self.context.controls.stopping
        )
        return drawn_samples(self.run.model, self.context.ranks, self.adaptive, options, request)


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

    def pass_on_warning(event: Event) -> None:
        if isinstance(event, Warned):
            ranks.notify({"warned": event.text})

    bus.subscribe(pass_on_warning)
    release_memory(spec.machine.device)
    with spec.machine.computing(spec.settings.memory):
        run = build(spec, context)
        ranks.on_ask = Answers(run, spec, context, AdaptiveSampler(run.model.size_multiple))
        with run.data:
            for job in run.jobs:
                bus.emit(job.at_start(run.state))
            train(run)
