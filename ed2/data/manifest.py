"""Manifests: a JSON file that lists images and says how each is trained, in place of a folder."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ed2.data.example import Finding
from ed2.data.layers import Layer, layer_of_mapping, layer_of_text, merged
from ed2.data.sidecars import IMAGE_EXTENSIONS, Note, read_image_file
from ed2.data.walk import Findings, ImageEntry, printable, side_car_finding
from ed2.errors import DatasetError, Problem
from ed2.small_files import opened

MAX_BYTES = 256 << 20


def is_manifest(path: Path) -> bool:
    """Tell whether a data root is a manifest."""
    return path.suffix.lower() == ".json" and path.is_file()


def read_manifest(path: Path, number: int) -> Findings:
    """Return the images that a manifest lists, in its order.

    Relative paths count from the folder that the manifest lies in. An entry alone says how its image is trained: the
    files beside an image and in its folder are not read.

    Args:
        path: a list of objects, each with `image`.
        number: its number among the data roots.

    Raises:
        DatasetError: the file is no such list.
    """
    found = Findings()
    times = Counter[str]()
    for place, entry in enumerate(_entries(path), 1):
        found.num_files += 1
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
            what = f"entry {place} names no image."
            found.problems.append(Finding(path.name, what, 'It takes {"image": "cat.jpg", ...}.', root=number))
            continue
        _add(found, path, number, entry, times)
    return found


def _add(found: Findings, path: Path, number: int, entry: dict[str, object], times: Counter[str]) -> None:
    file = Path(os.path.normpath(path.parent / _at_home(str(entry["image"]))))
    name = printable(Path(os.path.relpath(file, path.parent)).as_posix())
    try:
        status = file.stat()
        if not file.is_file():
            raise OSError("it is not a file")
    except (OSError, ValueError) as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error})"
        found.problems.append(Finding(name, f"{what}.", f"Correct its path in {path.name}.", root=number))
        return
    layers = []
    for layer, faults in _layers(entry, path.parent):
        layers.append(layer)
        told = [Note("side-car", f"{path.name}: {fault.rstrip('.')}") for fault in faults]
        found.notes += [side_car_finding(name, note, number) for note in told]
    image = ImageEntry(file, number, name, status, merged(layers), entry=times[name])
    found.images.append(image)
    times[name] += 1


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of somebody who has no home here
        return Path(text)


def _layers(entry: dict[str, object], folder: Path) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """Give what an entry says, the weakest first: its caption, then the names beside that."""
    rest = {name: value for name, value in entry.items() if name != "image"}
    caption = rest.get("caption")
    if isinstance(caption, str):
        del rest["caption"]
        file = folder / caption
        if file.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS and _is_file(file):
            layer, notes = read_image_file(file)
            yield layer, tuple(note.what for note in notes)
        else:
            yield layer_of_text(" ".join(caption.split())), ()
    yield layer_of_mapping(rest)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a caption may be longer than a path can be
        return False


def _entries(path: Path) -> list[object]:
    try:
        with opened(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        entries = json.loads(content.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"it is not proper JSON ({error}).") from None
    if not isinstance(entries, list):
        raise _refused(path, "it is no list of images.")
    return entries


def _refused(path: Path, what: str) -> DatasetError:
    fix = 'A manifest is a list: [{"image": "cat.jpg", "caption": "a cat"}, ...].'
    return DatasetError("There is nothing to train on.", [Problem(str(path), what, fix)])
