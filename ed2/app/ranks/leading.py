"""What rank 0 does with what the other processes say aside: report warnings, and stop when one is asked to."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from ed2.events import Event, EventBus, Warned
from ed2.ranks.base import Message
from ed2.ranks.group import Leader, join
from ed2.ranks.place import RankPlace
from ed2.training.controls import Controls


@dataclass
class Asides:
    """Listens to the other processes. What this one has warned of already is not reported again."""

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
