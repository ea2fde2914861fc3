"""Reads image files: sizes from their headers at once, and for a check each file in full, which is remembered.

A full read finds damage. It takes a hundred times as long as the header, but is done only once: the result is valid
until the file changes. A run starts from the headers and from what is remembered, and reads each image in full when it
decodes it anyway; see `full_reads`.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import PIL

from ed2.data.buckets import Size, nearest_bucket
from ed2.data.example import Finding
from ed2.data.file_kinds import can_read_heif
from ed2.data.images import MARKS, PIXELS_VERSION, ImageFacts, Mark, check_image, read_header_facts
from ed2.data.walk import ImageEntry
from ed2.disk import write_whole
from ed2.errors import Problem, StopRequested, printable
from ed2.small_files import read_object
from ed2.text import counted

HEADERS_AT_ONCE = 64
"""A header is read so quickly that handing over each of them to a thread would take longer."""
MAX_TEXT = 1000
"""Most characters of a remembered problem."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_NO_MARKS: frozenset[Mark] = frozenset()

logger = logging.getLogger(__name__)


class ImageIndex:
    """The results of reading each image in full, by path, file size and modification time, in one JSON file.

    A file that cannot be read, is damaged, or was written with another version of Pillow or of the rules of this
    program, which may read more or fewer images, is replaced.
    """

    VERSION = 3

    def __init__(self, path: Path | None) -> None:
        """Read the index in `path`; with None nothing is kept beyond this object."""
        self._path = path
        # An entry: file size, mtime_ns, width, height, animated, digest, problem, fix, marks; anything in a broken one.
        self._entries: dict[str, Sequence[object]] = _read_entries(path, self._head()) if path else {}
        self._is_changed = False

    def find(self, path: Path | str, stat: os.stat_result) -> ImageFacts | None:
        """Return what is known of the file in its current state."""
        match self._entries.get(str(path)):
            case [stat.st_size, stat.st_mtime_ns, *values]:
                return facts_of(path, values)
        return None

    def remember(self, path: Path | str, stat: os.stat_result, facts: ImageFacts) -> None:
        """Keep the facts, unless they may change while the file does not."""
        if not facts.lasting:
            return
        self._entries[str(path)] = (stat.st_size, stat.st_mtime_ns, *values_of(facts))
        self._is_changed = True

    def forget_missing(self, roots: Sequence[Path], present: set[str]) -> None:
        """Drop the files below `roots` that are not among `present`."""
        prefixes = tuple(str(root).rstrip(os.sep) + os.sep for root in roots)
        missing = [path for path in self._entries if path not in present and path.startswith(prefixes)]
        for path in missing:
            del self._entries[path]
        self._is_changed = self._is_changed or bool(missing)

    def save(self) -> None:
        """Write the file if anything is new, so that readers find either the old file or the new one.

        Raises:
            OSError: it cannot be written.
        """
        if self._path is None or not self._is_changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps({**self._head(), "entries": self._entries}).encode())
        self._is_changed = False

    def _head(self) -> dict[str, object]:
        return {"version": self.VERSION, **reading_versions()}


def values_of(facts: ImageFacts) -> list[object]:
    """Return lasting facts as values for JSON: width, height, animated, digest, problem, fix, marks."""
    what = fix = ""
    if facts.problem:
        what, fix = facts.problem.what, facts.problem.fix
    return [*facts.size, facts.animated, facts.digest, what, fix, *sorted(facts.marks)]


def facts_of(path: Path | str, values: Sequence[object]) -> ImageFacts | None:
    """Return the facts in such values; None if this program has not written them."""
    match values:
        case [int(width), int(height), bool(animated), str(digest), str(what), str(fix), *own]:
            marks = _marks(own)
            if not digest.isascii() or not (what or min(width, height) > 0) or marks is None:
                return None
            problem = None
            if what:
                problem = Problem(str(path), printable(what, MAX_TEXT), printable(fix, MAX_TEXT))
            return ImageFacts((width, height), problem, animated, marks, digest)
    return None


def reading_versions() -> dict[str, object]:
    """Return what decides, besides a file, what is read from it."""
    return {"pillow": PIL.__version__, "pixels": PIXELS_VERSION, "heif": can_read_heif()}


def _marks(values: Sequence[object]) -> frozenset[Mark] | None:
    """Return the marks in an entry; None if one is not known."""
    if not values:
        return _NO_MARKS
    marks = frozenset(mark for mark in MARKS if mark in values)
    if len(marks) != len(values):
        return None
    return marks


def _read_entries(path: Path, head: dict[str, object]) -> dict[str, Sequence[object]]:
    try:
        content = read_object(path)
        if {name: content[name] for name in head} != head:
            return {}
        return dict(content["entries"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        logger.warning("The index %s cannot be read (%s). Starting a new one.", path, error)
        return {}


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known from headers and remembered results before any image is read in full."""

    num_images: int
    num_unread: int
    """Images that still have to be read in full."""
    buckets: Mapping[Size, int]
    """Number of images in each bucket."""

    def __str__(self) -> str:
        images, sizes = counted(self.num_images, "image"), counted(len(self.buckets), "size")
        return f"{images} in {sizes}; reading {self.num_unread:,} new or changed in full"


@dataclass(frozen=True, slots=True)
class ScanCallbacks:
    """The callbacks of a scan; see `scan`."""

    progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool] | None
    on_outline: Callable[[Outline], None] | None

    def report(self, done: int, total: int) -> None:
        """Report `done` of `total` images. Raises StopRequested if `should_stop` says so."""
        self.raise_if_stopped()
        if self.progress:
            self.progress(done, total)

    def raise_if_stopped(self) -> None:
        """Raise StopRequested if `should_stop` says so."""
        if self.should_stop and self.should_stop():
            raise StopRequested(save=False)


class ReadResult(NamedTuple):
    """The facts of files, in their order, and what to report about remembering them."""

    facts: list[ImageFacts]
    notes: list[Finding]
    num_unread: int
    """Images of which only the header was read."""


@dataclass(frozen=True, slots=True)
class ImageReader:
    """Finds the facts of image files, in threads."""

    index_path: Path | None
    """Where the results of full reads are remembered; with None every image is read each time."""
    threads: int
    callbacks: ScanCallbacks

    def read_headers(self, files: Sequence[ImageEntry], left_out: Collection[str] | None) -> ReadResult:
        """Return what is remembered of each file, or else what its header says.

        Args:
            files: the images.
            left_out: files, by root and name, that a run has left out since its start: these are read in full if
                nothing is remembered, and no other is left out for damage that was found since. None for a new run.
        """
        index = ImageIndex(self.index_path)
        known = _known(files, index)
        if left_out is not None:
            known = [_as_at_start(file, fact, left_out) for file, fact in zip(files, known, strict=True)]
        found = self._add_headers(files, known, self.callbacks.report)
        num_unread = 0
        for file, before, fact in zip(files, known, found, strict=True):
            if not fact.digest and not fact.problem:
                num_unread += 1
            elif before is None:  # its header made no sense, so it was read in full
                index.remember(file.path, file.stat, fact)
        try:
            index.save()
        except OSError as error:
            logger.info("The index %s cannot be written (%s).", self.index_path, error)
        return ReadResult(found, [], num_unread)

    def read_in_full(self, files: Sequence[ImageEntry], roots: Sequence[Path], resolution: int) -> ReadResult:
        """Return what is remembered of each file, or else what a full read shows, and remember that.

        Args:
            files: the images.
            roots: files below these that are not among `files` are forgotten.
            resolution: decides the buckets of the outline.
        """
        index = ImageIndex(self.index_path)
        known = _known(files, index)
        if self.callbacks.on_outline and None in known:
            headers = self._add_headers(files, known, lambda done, total: self.callbacks.raise_if_stopped())
            buckets = Counter(nearest_bucket(fact.size, resolution) for fact in headers if not fact.problem)
            self.callbacks.on_outline(Outline(len(files), known.count(None), buckets))
        notes: list[Finding] = []
        try:
            fresh = self._read(_unknown(files, known), len(files), index)
            index.forget_missing(roots, {file.path for file in files})
        finally:
            try:
                index.save()
            except OSError as error:
                what = f"the results cannot be saved in {self.index_path} ({error.strerror or error})."
                notes.append(Finding(None, what, "The next check will read every image again.", kind="index"))
        return ReadResult(_fill_in(known, fresh), notes, 0)

    def _add_headers(
        self, files: Sequence[ImageEntry], known: Sequence[ImageFacts | None], report: Callable[[int, int], object]
    ) -> list[ImageFacts]:
        unknown = [file.path for file in _unknown(files, known)]
        some = [unknown[start : start + HEADERS_AT_ONCE] for start in range(0, len(unknown), HEADERS_AT_ONCE)]
        headers: list[ImageFacts] = []
        num_known = len(files) - len(unknown)
        for facts in self._map(_read_headers, some):
            for fact in facts:
                headers.append(fact)
                report(num_known + len(headers), len(files))
        return _fill_in(known, headers)

    def _read(self, files: Sequence[ImageEntry], total: int, index: ImageIndex) -> list[ImageFacts]:
        """Read whole images, and remember each as soon as it is done."""
        facts: list[ImageFacts] = []
        num_known = total - len(files)
        for file, fact in zip(files, self._map(check_image, [Path(file.path) for file in files]), strict=True):
            index.remember(file.path, file.stat, fact)
            facts.append(fact)
            self.callbacks.report(num_known + len(facts), total)
        if not files:
            self.callbacks.report(total, total)
        return facts

    def _map(self, read: Callable[[_T], _R], given: Iterable[_T]) -> Iterator[_R]:
        """Yield what `read` returns for each of what is given, in that order."""
        pool = ThreadPoolExecutor(max_workers=max(1, self.threads), thread_name_prefix="check")
        try:
            yield from pool.map(read, given)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_headers(paths: Sequence[str]) -> list[ImageFacts]:
    return list(map(read_header_facts, paths))


def _known(files: Sequence[ImageEntry], index: ImageIndex) -> list[ImageFacts | None]:
    return [index.find(file.path, file.stat) for file in files]


def _as_at_start(file: ImageEntry, fact: ImageFacts | None, left_out: Collection[str]) -> ImageFacts | None:
    """Return what is remembered of a file, as far as it was known when its run started."""
    is_left_out = f"{file.root}/{file.name}" in left_out
    if is_left_out and fact is None:
        return check_image(Path(file.path))
    if not is_left_out and fact and fact.problem:
        return None
    return fact


def _unknown(files: Sequence[ImageEntry], known: Sequence[ImageFacts | None]) -> list[ImageEntry]:
    return [file for file, fact in zip(files, known, strict=True) if fact is None]


def _fill_in(known: Sequence[ImageFacts | None], fresh: Iterable[ImageFacts]) -> list[ImageFacts]:
    """Return `known` with each None replaced by the next of `fresh`."""
    rest = iter(fresh)
    return [fact or next(rest) for fact in known]
