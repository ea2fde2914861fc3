"""Which file says what about an image, in words, and the weight of a folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ed2.app.images.captions import CaptionListing
from ed2.app.images.edits import FileChange, content_of
from ed2.data.example import Example
from ed2.data.image_config import MAX_MULTIPLY, ImageConfig
from ed2.data.manifest import is_manifest
from ed2.data.sidecars import GLOBAL_NAMES, LOCAL_NAMES, VALUE_NAMES, read_caption_file, read_folder_file
from ed2.data.walk import escape_undecodable
from ed2.errors import Ed2Error
from ed2.text import value_text

VALUES = (*VALUE_NAMES.values(), "max_caption_length")
MULTIPLY_FILE = "multiply.txt"
_NOT_SET = "The weight was not set"
Source = tuple[str, ImageConfig]
"""The name of a file below the data root, and what it says."""


class SidecarWords:
    """Says where the values of images come from; each file of a folder is read once."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Images of these data roots."""
        self._roots = roots
        self._of_folder: dict[tuple[Path, bool], list[Source]] = {}
        self._listing = CaptionListing()

    def of(self, example: Example) -> list[str]:
        """Such as "multiply 2 from multiply.txt", for each value that a file gives."""
        root = self._roots[example.root]
        if is_manifest(root):
            return []
        said, sources = [], self._sources(root, example.path)
        for value in VALUES:
            for name, config in reversed(sources):
                if (given := getattr(config, value)) is not None:
                    said.append(f"{value} {value_text(given)} from {escape_undecodable(name)}")
                    break
        return said

    def _sources(self, root: Path, image: Path) -> list[Source]:
        """What the files above and beside an image say, the strongest last."""
        folder, sources = image.parent, []
        if folder.is_relative_to(root):
            above = [folder, *folder.parents]
            for one in reversed(above[: above.index(root) + 1]):
                sources += self._read(root, one, is_inner=one == folder)
        for path in self._listing.of(image):
            if path.suffix.lower() in (".yml", ".yaml"):
                sources.append((path.name, read_caption_file(path).config))
        return sources

    def _read(self, root: Path, folder: Path, is_inner: bool) -> list[Source]:
        mark = (folder, is_inner)
        if mark not in self._of_folder:
            names = (*GLOBAL_NAMES, *LOCAL_NAMES) if is_inner else GLOBAL_NAMES
            found = []
            for path in _named(folder, names):
                found.append((path.relative_to(root).as_posix(), read_folder_file(path).config))
            self._of_folder[mark] = found
        return self._of_folder[mark]


def folders_of(examples: Iterable[Example], roots: Sequence[Path]) -> list[tuple[Path, str, int, float]]:
    """The folders that images are in: path, name below its data root, number of images, their largest `multiply`."""
    counts: dict[Path, int] = {}
    weights: dict[Path, float] = {}
    names: dict[Path, str] = {}
    for example in examples:
        root, folder = roots[example.root], example.path.parent
        if is_manifest(root) or not folder.is_relative_to(root):
            continue
        counts[folder] = counts.get(folder, 0) + 1
        weights[folder] = max(weights.get(folder, 0.0), example.multiply)
        inner = folder.relative_to(root).as_posix()
        names[folder] = root.name if inner == "." else f"{root.name}/{inner}"
    return [(folder, names[folder], counts[folder], weights[folder]) for folder in sorted(counts)]


def weight_change(folder: Path, weight: float | None) -> FileChange:
    """The change that gives the images of a folder this `multiply`; None removes the file.

    Raises:
        Ed2Error: it is out of range, the folder cannot be read, or another file of it says something else.
    """
    if weight is not None and not 0 <= weight <= MAX_MULTIPLY:
        raise Ed2Error(_NOT_SET, f"multiply is {weight:g}.", f"Enter a number from 0 to {MAX_MULTIPLY:,}.")
    try:
        for path in _named(folder, [name for name in LOCAL_NAMES if name not in VALUE_NAMES]):
            if read_folder_file(path).config.multiply is not None:
                why = f"{path.name} in this folder gives a multiply, which is stronger than {MULTIPLY_FILE}."
                raise Ed2Error(_NOT_SET, why, "Edit that file.")
        file = next(iter(_named(folder, [MULTIPLY_FILE])), folder / MULTIPLY_FILE)
        old = content_of(file)
    except OSError as error:
        raise Ed2Error(_NOT_SET, f"the folder cannot be read ({error.strerror or error}).") from None
    return FileChange(file, old, None if weight is None else f"{weight:g}\n".encode())


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of a folder with these names, in any case, in the order of the names."""
    try:
        found = {path.name.lower(): path for path in folder.iterdir() if path.name.lower() in names}
    except OSError:
        return []
    return [found[name] for name in names if name in found]
