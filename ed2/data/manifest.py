"""Manifests: a JSON file that lists images and how each is trained, used in place of a folder."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from ed2.data.example import Finding
from ed2.data.image_config import ParsedConfig, config_from_mapping, config_from_text, merge_configs
from ed2.data.sidecars import CAPTION_EXTENSIONS, SidecarNote, read_caption_file
from ed2.data.walk import ImageEntry, RootContents, escape_undecodable, sidecar_finding
from ed2.errors import DatasetError, Problem
from ed2.settings.files import at_home
from ed2.small_files import NO_FILE, is_file, read_json


def is_manifest(path: Path) -> bool:
    """Tell whether a data root is a manifest."""
    return path.suffix.lower() == ".json" and path.is_file()


def read_manifest(path: Path, number: int) -> RootContents:
    """Return the images that a manifest lists, in its order.

    Relative paths are relative to the manifest's folder. Only the entry says how its image is trained: caption files
    beside the image and files for its folder are not read.

    Args:
        path: a JSON file with a list of objects, each with `image`.
        number: its index among the data roots.

    Raises:
        DatasetError: the file is not such a list.
    """
    found = RootContents()
    times = Counter[str]()
    for place, entry in enumerate(_entries(path), 1):
        found.num_files += 1
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
            what = f"entry {place} has no image path."
            found.problems.append(Finding(path.name, what, 'Write it as {"image": "cat.jpg", ...}.', root=number))
            continue
        file = Path(os.path.normpath(path.parent / at_home(entry.pop("image"))))
        name = _name_of(file, path.parent)
        try:
            status = file.stat()
            if not is_file(file):
                raise OSError(NO_FILE)
        except (OSError, ValueError) as error:
            what = f"it cannot be read ({error})."
            if isinstance(error, FileNotFoundError):
                what = "the file does not exist."
            found.problems.append(Finding(name, what, f"Correct its path in {path.name}.", root=number))
            continue
        config, problems = _config(entry, path.parent)
        for problem in problems:
            note = SidecarNote("sidecar", f"{path.name}: {problem.rstrip('.')}")
            found.notes.append(sidecar_finding(name, note, number))
        found.images.append(ImageEntry(str(file), number, name, status, config, entry=times[name]))
        times[name] += 1
    return found


def _name_of(image: Path, folder: Path) -> str:
    """The path of an image as seen from the manifest's folder; the whole path if it is on another drive."""
    with suppress(ValueError):  # on Windows no relative path leads to another drive
        image = Path(os.path.relpath(image, folder))
    return escape_undecodable(image.as_posix())


def _config(entry: dict[str, object], folder: Path) -> ParsedConfig:
    """Return what an entry says besides its image; the names beside the caption win over it."""
    caption = entry.get("caption")
    if not isinstance(caption, str):
        return config_from_mapping(entry)
    del entry["caption"]
    values = config_from_mapping(entry)
    file = folder / caption
    problems: list[str] = []
    may_be_file = file.suffix.lower().removeprefix(".") in CAPTION_EXTENSIONS
    if may_be_file and is_file(file):  # which is false for a caption that is longer than a path can be
        config, notes = read_caption_file(file)
        problems = [note.what for note in notes]
    else:
        config = config_from_text(" ".join(caption.split()))
    return ParsedConfig(merge_configs([config, values.config]), (*problems, *values.problems))


def _entries(path: Path) -> list[object]:
    try:
        entries = read_json(path)
    except (OSError, ValueError) as error:
        raise _invalid(path, f"it is not valid JSON ({error}).") from None
    if not isinstance(entries, list):
        raise _invalid(path, "it is not a list of images.")
    return entries


def _invalid(path: Path, what: str) -> DatasetError:
    fix = 'A manifest is a list: [{"image": "cat.jpg", "caption": "a cat"}, ...].'
    return DatasetError("There are no images to train on.", [Problem(str(path), what, fix)])
