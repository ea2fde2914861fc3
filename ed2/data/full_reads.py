"""Records what the first full read of each image shows while a run trains, so that no start has to read all of it."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from ed2.data.buckets import Size
from ed2.data.example import Example, file_stamp
from ed2.data.images import ImageError, ImageFacts, decode, decode_and_check
from ed2.data.reading import ImageIndex, facts_of, values_of
from ed2.data.variants import digest_of
from ed2.disk_errors import plain_reason
from ed2.errors import Problem

SAVE_SECONDS = 60.0
"""How often what was found is added to the index, at most."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class FullReads:
    """Decodes images, and remembers of each that only had its header read what a full read shows.

    Its methods may be called from several threads.

    Attributes:
        index_path: the index to add to; None in a process that sends its results to another instead, by `take_news`.
    """

    index_path: Path | None = None
    _seen: dict[Path, Problem | None] = field(default_factory=dict)
    _unsaved: dict[Path, tuple[Example, ImageFacts]] = field(default_factory=dict)
    _news: list[tuple[Example, list[object]]] = field(default_factory=list)
    _saved_at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _saving: threading.Lock = field(default_factory=threading.Lock)

    def decode(self, example: Example, at_least: Size, background: str) -> Image.Image:
        """Return an image as `images.decode` does; the first time, refuse it if a check would.

        Raises:
            ImageError: it cannot be used.
        """
        if problem := self._seen.get(example.path):
            raise ImageError(problem.what, problem.fix)  # at each visit, as in a run that is resumed between two
        if example.digest or example.path in self._seen:
            return decode(example.path, at_least, background)
        try:
            image, facts = decode_and_check(example.path, at_least, background)
            facts = replace(facts, digest=digest_of(example))
        except ImageError as error:
            problem = Problem(str(example.path), error.what, error.fix)
            self._keep(example, ImageFacts((0, 0), problem, lasting=error.lasting))
            raise
        except OSError as error:  # from the hash alone: the file is gone since it was decoded
            logger.info("%s cannot be hashed: %s.", example.name, plain_reason(error))
            return image
        self._keep(example, facts)
        return image

    def take_news(self) -> list[tuple[Example, list[object]]]:
        """Return what this process has found since the last call: each image, and its facts as values for JSON."""
        with self._lock:
            found, self._news = self._news, []
        return found

    def add(self, example: Example, values: list[object]) -> None:
        """Remember what another process has found."""
        facts = facts_of(example.path, values)
        if facts and example.path not in self._seen:
            self._keep(example, facts, is_news=False)

    def save(self) -> None:
        """Add what was found to the index, as it is by now; if it cannot be written, that is a line in the log."""
        with self._lock:
            self._saved_at = time.monotonic()
            unsaved, self._unsaved = self._unsaved, {}
        if not unsaved or self.index_path is None:
            return
        with self._saving:
            self._add_to_index(self.index_path, unsaved)

    def _add_to_index(self, index_path: Path, unsaved: Mapping[Path, tuple[Example, ImageFacts]]) -> None:
        index = ImageIndex(index_path)
        for path, (example, facts) in unsaved.items():
            with suppress(OSError):
                status = path.stat()
                if file_stamp(status) == example.stamp:  # else it has changed since
                    index.remember(path, status, facts)
        try:
            index.save()
        except OSError as error:
            logger.info("The index %s cannot be written: %s.", index_path, plain_reason(error))

    def _keep(self, example: Example, facts: ImageFacts, *, is_news: bool = True) -> None:
        """Keep facts that last, unless they give another size than the header, which the plan of a run rests on."""
        if not facts.lasting:
            return
        with self._lock:
            self._seen[example.path] = facts.problem
            if not facts.problem and facts.size != example.size:
                return
            self._unsaved[example.path] = (example, facts)
            if is_news and self.index_path is None:
                self._news.append((example, values_of(facts)))
            is_due = time.monotonic() - self._saved_at > SAVE_SECONDS
        if is_due:
            self.save()
