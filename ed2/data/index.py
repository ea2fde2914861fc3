"""What reading each image in full has shown, remembered until the file changes."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import PIL

from ed2.data.images import ImageFacts
from ed2.disk import write_whole
from ed2.errors import Problem, printable
from ed2.small_files import read_object

MAX_TOLD = 1000
"""Letters of what is wrong with an image."""

logger = logging.getLogger(__name__)

Entry = Sequence[object]
"""File size, mtime_ns, width, height, animated, digest, what is wrong, what to do; of any shape in a damaged file."""


class ImageIndex:
    """Facts by path, file size and time of change, kept in one JSON file.

    A file that cannot be read, is damaged or was made by another version of Pillow, which may read more or less, is
    begun anew.
    """

    VERSION = 2

    def __init__(self, path: Path | None) -> None:
        """Read the index in `path`; None keeps nothing beyond this object."""
        self._path = path
        self._entries: dict[str, Entry] = _entries_in(path, self._head()) if path else {}
        self._is_changed = False

    def find(self, path: Path, stat: os.stat_result) -> ImageFacts | None:
        """Return what is known of the file as it is now."""
        match self._entries.get(str(path)):
            case [stat.st_size, stat.st_mtime_ns, int(w), int(h), bool(animated), str(digest), str(what), str(fix)]:
                if not digest.isascii() or not (what or min(w, h) > 0):  # nothing that this program wrote
                    return None
                problem = Problem(str(path), printable(what, MAX_TOLD), printable(fix, MAX_TOLD)) if what else None
                return ImageFacts((w, h), problem, animated, digest)
        return None

    def remember(self, path: Path, stat: os.stat_result, facts: ImageFacts) -> None:
        """Keep what holds as long as the file is not changed."""
        if not facts.lasting:
            return
        fault = (facts.problem.what, facts.problem.fix) if facts.problem else ("", "")
        self._entries[str(path)] = (stat.st_size, stat.st_mtime_ns, *facts.size, facts.animated, facts.digest, *fault)
        self._is_changed = True

    def forget_missing(self, roots: Sequence[Path], present: set[str]) -> None:
        """Drop the files below `roots` that are not among `present`."""
        below = tuple(str(root).rstrip(os.sep) + os.sep for root in roots)
        gone = [path for path in self._entries if path not in present and path.startswith(below)]
        for path in gone:
            del self._entries[path]
        self._is_changed = self._is_changed or bool(gone)

    def save(self) -> None:
        """Write the file if anything is new, so that a reader finds the old one or the new one, never half of one.

        Raises:
            OSError: it cannot be written.
        """
        if self._path is None or not self._is_changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps({**self._head(), "entries": self._entries}).encode())
        self._is_changed = False

    def _head(self) -> dict[str, object]:
        return {"version": self.VERSION, "pillow": PIL.__version__}


def _entries_in(path: Path, head: dict[str, object]) -> dict[str, Entry]:
    try:
        content = read_object(path)
        if {name: content[name] for name in head} != head:
            return {}
        return dict(content["entries"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        logger.warning("The index %s cannot be read (%s) and is begun anew.", path, error)
        return {}
