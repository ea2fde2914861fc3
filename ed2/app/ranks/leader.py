"""What rank 0 does besides training: listens to the other processes, and to the program that has started it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from signal import SIGTERM
from typing import BinaryIO

from ed2.app.ranks.messages import Message, decoded, encoded, error_message, event_message
from ed2.app.run import run_training
from ed2.app.signals import end_when_silent, stopping_on_signals
from ed2.errors import StopRequested
from ed2.events import Event, EventBus, Warned
from ed2.models.compute import quiet_libraries
from ed2.ranks.group import Leader, join
from ed2.ranks.place import RankPlace
from ed2.training.controls import Controls

logger = logging.getLogger(__name__)


@dataclass
class Asides:
    """Reports the warnings of the other processes, but what this one has warned of, and stops when one is asked to."""

    bus: EventBus
    controls: Controls
    _step: int = 0
    _texts: set[str] = field(default_factory=set)

    def watch(self, event: Event) -> None:
        """Remember what was reported, and the step."""
        self._step = event.step
        if isinstance(event, Warned):
            self._texts.add(event.text)

    def __call__(self, message: Message) -> None:
        """Act on what another process has said."""
        if "stop" in message:
            self.controls.stop(message["stop"])
        text = message.get("warned")
        if text and text not in self._texts:
            self.bus.emit(Warned(self._step, text))


@contextmanager
def led_ranks(place: RankPlace, bus: EventBus, controls: Controls) -> Iterator[Leader]:
    """The processes of the run, of which this is the first. Raises RankError."""
    ranks, asides = join(place), Asides(bus, controls)
    assert isinstance(ranks, Leader)
    bus.subscribe(asides.watch)
    ranks.on_aside = asides
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

    def send(self, message: Message) -> None:
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
    """Train with the settings that come first, and do as is ordered; returns the exit code."""
    sender, controls = Sender(), Controls()
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 -- a buffer would hold a lock at the exit
    try:
        values = decoded(orders.readline())
        bus = EventBus([sender])

        def obey() -> None:
            follow_orders(orders.readline, controls)
            end_when_silent(bus)

        threading.Thread(target=obey, name="orders", daemon=True).start()
        quiet_libraries()
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
    """Pass orders on to the run; when there can be none any more, stop and save it: the other program has ended."""
    while line := read_line():
        with suppress(ValueError, KeyError, TypeError):
            follow_order(decoded(line), controls)
    controls.stop(SIGTERM)


def follow_order(order: Message, controls: Controls) -> None:
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
