"""What the files of images hold: sizes from their headers at once, and all of each, which is remembered.

An image is trained on, or told to be unusable, by what reading all of it has shown. That takes a hundred times as long
as its header, but only once: the result holds until the file changes. Training does not begin on headers alone: how
many images there are and which size each has decides every epoch's plan, and a header may be wrong about both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ed2.data.buckets import Size, nearest
from ed2.data.example import Finding
from ed2.data.images import ImageFacts, check_image, sized_by_header
from ed2.data.index import ImageIndex
from ed2.data.walk import ImageEntry
from ed2.errors import StopRequested
from ed2.text import counted


@dataclass(frozen=True, slots=True)
class Outline:
    """What headers and remembered results say, before any image is read in full."""

    num_images: int
    num_unread: int
    """Those that are still to be read in full."""
    buckets: Mapping[Size, int]
    """Images of each size that they will be trained at."""

    def __str__(self) -> str:
        images, sizes = counted(self.num_images, "image"), counted(len(self.buckets), "size")
        return f"{images} in {sizes}; {self.num_unread:,} of them new or changed, which are now read in full"


@dataclass(frozen=True, slots=True)
class Watch:
    """Whoever waits: is told how far it is, and may have had enough."""

    progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool] | None
    at_outline: Callable[[Outline], None] | None

    def tell(self, done: int, total: int) -> None:
        """Report `done` of `total` images; raises StopRequested when that was asked for."""
        self.ask()
        if self.progress:
            self.progress(done, total)

    def ask(self) -> None:
        """Raise StopRequested when that was asked for."""
        if self.should_stop and self.should_stop():
            raise StopRequested(save=False)


class Read(NamedTuple):
    """What files hold, in their order, and what is to be said about remembering it."""

    facts: list[ImageFacts]
    notes: list[Finding]
    num_unread: int
    """Those of which only the header was read."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Finds the facts of image files, in threads."""

    index_path: Path | None
    """Where the results of reading whole images are remembered; None reads all of them each time."""
    threads: int
    watch: Watch

    def by_header(self, files: Sequence[ImageEntry]) -> Read:
        """Return what is remembered of each file, else what its header claims."""
        known = self._known(files, ImageIndex(self.index_path))
        return Read(self._with_headers(files, known), [], known.count(None))

    def in_full(self, files: Sequence[ImageEntry], roots: Sequence[Path], resolution: int) -> Read:
        """Return what is remembered of each file, else what reading all of it shows, and remember that.

        Args:
            files: the images.
            roots: files below these that are not among `files` are forgotten.
            resolution: what the outline's sizes are of.
        """
        index = ImageIndex(self.index_path)
        known = self._known(files, index)
        if self.watch.at_outline and None in known:
            headers = self._with_headers(files, known)
            buckets = Counter(nearest(fact.size, resolution) for fact in headers if not fact.problem)
            self.watch.at_outline(Outline(len(files), known.count(None), buckets))
        unread = [file for file, fact in zip(files, known, strict=True) if fact is None]
        notes: list[Finding] = []
        try:
            fresh = iter(self._read(unread, len(files), index))
            index.forget_missing(roots, {str(file.path) for file in files})
        finally:
            notes += self._saved(index)
        return Read([fact or next(fresh) for fact in known], notes, 0)

    @staticmethod
    def _known(files: Sequence[ImageEntry], index: ImageIndex) -> list[ImageFacts | None]:
        return [index.find(file.path, file.stat) for file in files]

    def _with_headers(self, files: Sequence[ImageEntry], known: Sequence[ImageFacts | None]) -> list[ImageFacts]:
        unknown = [file.path for file, fact in zip(files, known, strict=True) if fact is None]
        sized: list[ImageFacts] = []
        for fact in self._mapped(sized_by_header, unknown):
            self.watch.ask()
            sized.append(fact)
        rest = iter(sized)
        return [fact or next(rest) for fact in known]

    def _read(self, files: Sequence[ImageEntry], total: int, index: ImageIndex) -> list[ImageFacts]:
        """Read whole images, and remember each as it is done."""
        facts: list[ImageFacts] = []
        done = total - len(files)
        for file, fact in zip(files, self._mapped(check_image, [file.path for file in files]), strict=True):
            index.remember(file.path, file.stat, fact)
            facts.append(fact)
            self.watch.tell(done + len(facts), total)
        if not files:
            self.watch.tell(total, total)
        return facts

    def _mapped(self, read: Callable[[Path], ImageFacts], paths: Iterable[Path]) -> Iterator[ImageFacts]:
        """Give what `read` returns for each path, in their order."""
        pool = ThreadPoolExecutor(max_workers=max(1, self.threads), thread_name_prefix="check")
        try:
            yield from pool.map(read, paths)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _saved(self, index: ImageIndex) -> list[Finding]:
        try:
            index.save()
        except OSError as error:
            what = f"what was read cannot be remembered in {self.index_path} ({error.strerror or error})."
            return [Finding(None, what, "The next check reads every image again.", kind="index")]
        return []
