"""Finds base models in folders, and says what they are by their headers and configs alone. Needs no torch."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ed2.errors import ModelError
from ed2.models.families.facts import FACTS, FamilyFacts, family_of_config, is_trainable_pipeline
from ed2.models.families.kinds import kind_of
from ed2.models.files.base_model import HUB_FOLDER, SINGLE_FILES, in_hub_cache, locate, pickle_problem
from ed2.models.files.description import stated_prediction
from ed2.models.files.folder_problems import INDEX, SCHEDULER_CONFIG, UNET_CONFIG, read_config
from ed2.models.files.header import Header, HeaderError, is_pickle, read_header
from ed2.models.scheduler_config import scheduler_problem
from ed2.small_files import is_file, open_file

MAX_DEPTH = 4
"""Folders within folders that are searched."""
MAX_ENTRIES = 20_000
"""Files and folders that are looked at, in all places together."""
MAX_READ = 2_000
"""Files whose headers are read."""
MAX_FOUND = 300
WEIGHTS = (".safetensors", ".bin", ".sft")
LICENCE_KEY = "modelspec.license"
MAX_LICENCE = 100
"""Characters of a licence that are shown."""
MAX_CARD_BYTES = 64 << 10
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *(.+)\n")

Allow = Callable[[Path], bool]
"""Whether a path may be opened."""


@dataclass(frozen=True)
class FoundModel:
    """A base model on this computer that can be trained.

    Attributes:
        family: its title; None if only a start, which converts the file, can say.
        prediction_type: what it predicts; None if it does not say.
        num_bytes: of its weights.
        licence: as the file or its model card says; empty where neither does.
    """

    path: Path
    family: str | None
    prediction_type: str | None
    num_bytes: int = 0
    licence: str = ""

    @property
    def name(self) -> str:
        """What to set as the base model: the public name of a download, else the path."""
        return public_name(self.path) or str(self.path)

    @property
    def about(self) -> str:
        """What it is, in a few words."""
        if self.family is None:
            return "converted when a run starts"
        predicted = self.prediction_type.replace("_", "-") if self.prediction_type else "prediction not stated"
        return f"{self.family}, {predicted}"


def find_models(folders: Iterable[Path], cache: Path | None, allow: Allow = lambda path: True) -> list[FoundModel]:
    """The base models in the cache of the hub and in some folders, with those inside them.

    Args:
        folders: where to look; one that does not exist holds none.
        cache: of the hub.
        allow: asked for each path before it is opened.
    """
    entries = islice(_candidates(folders, cache, allow), MAX_ENTRIES)
    paths = dict.fromkeys(islice(filter(None, entries), MAX_READ))
    return list(islice(filter(None, map(describe, paths)), MAX_FOUND))


def describe(path: Path) -> FoundModel | None:
    """What a file or folder is; None if it is nothing that can be trained. Reads headers only."""
    try:
        if not is_file(path):
            return _of_folder(path)
        if is_pickle(path):
            if pickle_problem(path):
                return None
            return FoundModel(path, None, None, path.stat().st_size)
        header = read_header(path)
        family = FACTS.get(kind_of(header.shapes))
        if family is None:
            return None
        predicted, licence = _prediction(path, family, header), header.metadata.get(LICENCE_KEY, "")
        return FoundModel(path, family.title, predicted, path.stat().st_size, licence[:MAX_LICENCE])
    except (OSError, ValueError, HeaderError):
        return None


def public_name(path: Path) -> str | None:
    """The public name of a download in the cache of the hub that is read by that name; else None."""
    for folder in (path, *path.parents):
        if folder.name.startswith(HUB_FOLDER):
            name = folder.name.removeprefix(HUB_FOLDER).replace("--", "/", 1)
            if in_hub_cache(name) != path:
                return None
            return name
    return None


def _of_folder(path: Path) -> FoundModel | None:
    if not is_trainable_pipeline(str(read_config(path / INDEX).get("_class_name", ""))):
        return None
    unet = read_config(path / UNET_CONFIG)
    family = family_of_config(unet)
    if unet.get("in_channels", family.latent_channels) != family.latent_channels:
        return None
    scheduler = read_config(path / SCHEDULER_CONFIG)
    if scheduler_problem(scheduler):
        return None
    size = sum(file.stat().st_size for file in path.glob("*/*") if file.suffix in WEIGHTS)
    predicted = scheduler.get("prediction_type", "epsilon")
    return FoundModel(path, family.title, predicted, size, _licence_beside(path / "README.md"))


def _licence_beside(card: Path) -> str:
    """The licence that a model card names in its head; empty without one."""
    with contextlib.suppress(OSError, ValueError), open_file(card) as file:
        found = _LICENCE.search(file.read(MAX_CARD_BYTES).decode())
        if not found:
            return ""
        return found[1].strip(" '\"")[:MAX_LICENCE]
    return ""


def _prediction(path: Path, family: FamilyFacts, header: Header) -> str | None:
    """What a file predicts, as far as that is certain."""
    try:
        stated = stated_prediction(path, header)
    except ModelError:
        return None
    if family.has_unmarked_v:
        return stated
    return stated or family.prediction_type


def _candidates(folders: Iterable[Path], cache: Path | None, allow: Allow) -> Iterator[Path | None]:
    """Files and folders that may be models, and None for everything else that was passed on the way."""
    if cache and allow(cache):
        for folder in sorted(cache.glob(f"{HUB_FOLDER}*")):
            place = locate(str(folder))
            if place and allow(place.path):
                yield place.path
    for folder in folders:
        if allow(folder):
            yield from _inside(folder, allow, MAX_DEPTH)


def _inside(folder: Path, allow: Allow, depth: int) -> Iterator[Path | None]:
    if is_file(folder / INDEX):
        yield folder
        return
    try:
        entries = sorted(islice(os.scandir(folder), MAX_ENTRIES), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        yield None
        if entry.name.startswith(".") or not allow(path):
            continue
        if path.suffix.lower() in SINGLE_FILES and is_file(path):
            yield path
        elif depth and entry.is_dir(follow_symlinks=False):
            yield from _inside(path, allow, depth - 1)
