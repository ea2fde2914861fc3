"""Images that are lost or changed while a run goes on: each is told once, and all are counted for its end."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ed2.data.example import Finding, Kind
from ed2.events import EventBus, Warned

MOST_TOLD = 20
"""Images of a kind that are told to everybody; more of them stand in run.log and in the count."""
MORE = "More such images are named in run.log only, and counted at the end of the run."
HEADINGS: dict[Kind, str] = {"unusable": "An image was left out.", "changed": "An image was changed."}

logger = logging.getLogger(__name__)


@dataclass
class ImageFaults:
    """What the loaders of a run have met. A validation opens its images anew each time and tells them again.

    Attributes:
        bus: where it is told.
        step: gives the step that the run is at.
        count: how many images were met, by what is wrong with them.
    """

    bus: EventBus
    step: Callable[[], int] = lambda: 0
    count: Counter[Kind] = field(default_factory=Counter)
    _met: set[tuple[Kind, Path | None, str | None]] = field(default_factory=set)

    def __call__(self, finding: Finding) -> None:
        """Tell of an image, the first time that it is met."""
        mark = (finding.kind, finding.file, finding.path)
        if mark in self._met:
            return
        self._met.add(mark)
        self.count[finding.kind] += 1
        text = f"{HEADINGS[finding.kind]} {finding}"
        if self.count[finding.kind] > MOST_TOLD:
            logger.info("%s", text)
            text = MORE
        if self.count[finding.kind] <= MOST_TOLD + 1:
            self.bus.emit(Warned(self.step(), text))
