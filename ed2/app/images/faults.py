"""Images that are lost or changed during a run: each is reported once, and all are counted for the end."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ed2.data.example import Finding, FindingKind
from ed2.events import EventBus, Warned

MAX_REPORTED = 20
"""Images of a kind that are reported as events; further ones only appear in run.log and in the count."""
MORE = "Further images like these are only listed in run.log, and counted at the end of the run."
HEADINGS: dict[FindingKind, str] = {"unusable": "An image was left out.", "changed": "An image has changed."}

logger = logging.getLogger(__name__)


@dataclass
class ImageFaults:
    """The problems of a run's loaders. A validation opens its images each time and reports them again.

    Attributes:
        bus: where they are reported.
        step: returns the step that the run is at.
        count: the number of images with a problem, by its kind.
    """

    bus: EventBus
    step: Callable[[], int] = lambda: 0
    count: Counter[FindingKind] = field(default_factory=Counter)
    _seen: set[tuple[FindingKind, Path | None, str | None]] = field(default_factory=set)

    def __call__(self, finding: Finding) -> None:
        """Report an image the first time that it has this kind of problem."""
        mark = (finding.kind, finding.file, finding.path)
        if mark in self._seen:
            return
        self._seen.add(mark)
        self.count[finding.kind] += 1
        text = f"{HEADINGS[finding.kind]} {finding}"
        if self.count[finding.kind] > MAX_REPORTED:
            logger.info("%s", text)
            text = MORE
        if self.count[finding.kind] <= MAX_REPORTED + 1:
            self.bus.emit(Warned(self.step(), text))
