"""Datasets of earlier scans, each for as long as nothing that it was made of has changed.

A scan in which no file is new and none has changed needs no caption and no part of the index: only the listing of its
folders, and the dataset as it was found.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from ed2.data.example import Dataset, Example, Finding
from ed2.data.image_config import Tag, TagShuffle
from ed2.data.walk import SYSTEM_FOLDERS
from ed2.disk import write_whole
from ed2.small_files import open_file

MAX_KEPT = 8
"""Datasets that are kept; those that were used least recently are deleted."""
SETTLED_NS = 2_000_000_000
"""A file that was written later than this before a scan may change again without a change of its time: on FAT it
counts in steps of two seconds."""
_OF_EXAMPLE = tuple(attribute.name for attribute in fields(Example))
_PLAIN = frozenset(_OF_EXAMPLE) - {"path", "size", "bucket", "shuffle"}
"""Attributes that are written as they are."""
_FINDING = ("path", "what", "fix", "kind", "root")
_OF_FINDING = attrgetter(*_FINDING)

logger = logging.getLogger(__name__)


class ScanCache:
    """The dataset that a scan of certain folders with certain options had, in a file of its own."""

    def __init__(self, folder: Path, roots: Sequence[Path], options: Sequence[object]) -> None:
        """Name the file; nothing is read yet.

        Args:
            folder: of all such files.
            roots: the folders that are scanned.
            options: whatever else decides the result, besides the files and this program.
        """
        name = hashlib.sha256(repr((list(map(str, roots)), options)).encode()).hexdigest()
        self._path = folder / f"{name[:32]}.json"
        self._roots = tuple(roots)

    def find(self, state: str) -> Dataset | None:
        """Return the dataset if it was kept in this state of the files; see `state_of`."""
        try:
            with open_file(self._path) as file:
                head, body = file.readline(), file.read()
            if head != _head(state, body):
                return None
            dataset = _dataset(json.loads(body), self._roots)
            os.utime(self._path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            logger.info("%s cannot be read (%s).", self._path, error)
            return None
        return dataset

    def keep(self, state: str, dataset: Dataset) -> None:
        """Keep the dataset for the next scan, unless it cannot be written."""
        body = json.dumps(_content(dataset)).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, _head(state, body) + body)
            kept = sorted(self._path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            for path in kept[:-MAX_KEPT]:
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.info("%s cannot be written (%s).", self._path, error)


def state_of(roots: Iterable[Path], on_folder: Callable[[], None], versions: Mapping[str, object]) -> str:
    """Return a hash of what a scan depends on: names, sizes and times of all files, and the program's own.

    Empty if a later change may not show: something is neither a file nor a folder or cannot be looked at, a link leads
    to a folder, or a file was written just now.

    Args:
        roots: the folders that are scanned; a manifest names files that may be anywhere, so it has no such hash.
        on_folder: called for each folder; may raise to stop.
        versions: of the libraries and rules that decide what is found.
    """
    now, digest = time.time_ns(), hashlib.sha256(repr(sorted(versions.items())).encode())
    try:
        digest.update(repr(_own_files()).encode())
        for root in roots:
            digest.update(os.fsencode(os.path.realpath(root)))
            waiting = [str(root)]
            while waiting:
                on_folder()
                folder = waiting.pop()
                found, folders, newest = _listing(folder)
                if now - newest < SETTLED_NS:
                    return ""
                digest.update(repr((folder, found)).encode())
                waiting += folders
    except OSError:
        return ""
    return digest.hexdigest()


def _listing(folder: str) -> tuple[list[tuple[object, ...]], list[str], int]:
    """Return the files of a folder with their sizes and times, the folders in it, and the newest of the times.

    Raises:
        OSError: it cannot be read, or a link leads to a folder.
    """
    found: list[tuple[object, ...]] = []
    folders, newest = [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if entry.is_dir():
                if target:
                    raise NotADirectoryError(target)
                found.append((entry.name,))
                if entry.name.lower() not in SYSTEM_FOLDERS:
                    folders.append(entry.path)
                continue
            status = entry.stat()
            found.append((entry.name, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, target))
            newest = max(newest, status.st_mtime_ns)
    found.sort()
    return found, sorted(folders), newest


def _own_files() -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of this package: rules that have changed find something else."""
    with os.scandir(Path(__file__).parent) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".py")]
    return sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)


def _head(state: str, body: bytes) -> bytes:
    return f"{state} {hashlib.sha256(body).hexdigest()}\n".encode()


class _Table:
    """Values that many images have in common, each once."""

    def __init__(self) -> None:
        self._places: dict[object, int] = {}

    def places_of(self, values: Iterable[object]) -> list[int]:
        """Return where each of the values is, and add those that are new."""
        return [self._places.setdefault(value, len(self._places)) for value in values]

    def values(self) -> list[object]:
        """Return all of them, in their order."""
        return list(self._places)


def _content(dataset: Dataset) -> dict[str, object]:
    """Return everything but the roots for JSON, a list for each attribute of the images."""
    examples = dataset.examples
    folders, sizes, tags = _Table(), _Table(), _Table()
    images: dict[str, object] = {name: [getattr(example, name) for example in examples] for name in sorted(_PLAIN)}
    images["folder"] = folders.places_of(str(example.path.parent) for example in examples)
    images["file"] = list(map(attrgetter("path.name"), examples))
    images["size"] = sizes.places_of(map(attrgetter("size"), examples))
    images["bucket"] = sizes.places_of(map(attrgetter("bucket"), examples))
    shuffles = [example.shuffle for example in examples]
    images["shuffle"] = [s and (s.prompt, tags.places_of(s.tags), s.max_length) for s in shuffles]
    return {
        "fingerprint": dataset.fingerprint,
        "folders": folders.values(),
        "sizes": sizes.values(),
        "tags": tags.values(),
        "images": images,
        "problems": list(map(_OF_FINDING, dataset.problems)),
        "notes": list(map(_OF_FINDING, dataset.notes)),
    }


def _dataset(content: Mapping[str, Any], roots: tuple[Path, ...]) -> Dataset:
    images = dict(content["images"])
    folders, sizes = list(map(Path, content["folders"])), list(map(tuple, content["sizes"]))
    tags = [Tag(text, weight) for text, weight in content["tags"]]
    images["path"] = [folders[place] / name for place, name in zip(images["folder"], images["file"], strict=True)]
    images["size"] = [sizes[place] for place in images["size"]]
    images["bucket"] = [sizes[place] for place in images["bucket"]]
    images["shuffle"] = [found and _shuffle(found, tags) for found in images["shuffle"]]
    examples = map(Example, *[images[name] for name in _OF_EXAMPLE])
    problems, notes = (tuple(map(_finding, content[name])) for name in ("problems", "notes"))
    return Dataset(roots, tuple(examples), problems, notes, content["fingerprint"])


def _shuffle(found: Sequence[Any], tags: Sequence[Tag]) -> TagShuffle:
    prompt, places, max_length = found
    return TagShuffle(prompt, tuple([tags[place] for place in places]), max_length)


def _finding(values: Sequence[Any]) -> Finding:
    return Finding(**dict(zip(_FINDING, values, strict=True)))
