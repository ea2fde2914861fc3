"""What values are suggested for: the GPU, the base model, the method, and the images. Only headers are read."""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ed2.app.checks.memory import report_memory
from ed2.app.checks.suitability import REAL_UNET
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.models.families.facts import FACTS, VAE, FamilyFacts
from ed2.models.files.base_model import locate
from ed2.models.files.found import describe
from ed2.settings.schema import RESOLUTIONS, SMALL_RESOLUTIONS, Settings
from ed2.small_files import is_file, read_object
from ed2.vram.memory_options import Search

MAX_FOLDERS = 1000
_REPEATS = re.compile(r"(\d{1,4})_(.*\w.*)")
"""A folder as the scripts of other trainers name it: `50_jets`."""


@dataclass(frozen=True)
class Situation:
    """What values are suggested for.

    Attributes:
        settings: as they are now.
        family: of the base model, or the one that is planned for.
        search: the model on the GPU. Without a GPU to plan for, memory sets no limit.
        num_images: that are trained; None if unknown.
        prediction_type: what the base model predicts; None if that is unknown.
        resolution: that the base model was made at.
        has_real_unet: whether it is of the usual size, so that the usual values hold.
        given: settings that the user has chosen, which stay.
    """

    settings: Settings
    family: FamilyFacts
    search: Search
    num_images: int | None = None
    prediction_type: str | None = None
    resolution: int = 512
    has_real_unet: bool = True
    given: frozenset[str] = frozenset()

    @property
    def has_card(self) -> bool:
        """Whether there is a GPU to plan for."""
        return self.search.card.free_gb is not None


def situation_of(
    settings: Settings,
    sizes: ModelSizes | None = None,
    *,
    vram_gb: float | None = None,
    num_images: int | None = None,
    given: Iterable[str] = (),
) -> Situation:
    """The situation of a run on a GPU of `vram_gb`, or the one in this computer; settings that are `given` stay."""
    sizes = sizes or model_sizes(settings)
    report, family = report_memory(settings, sizes, vram_gb), FACTS[sizes.family]
    predicted = settings.model.prediction_type or family.prediction_type
    resolution = None
    place = locate(settings.model.resume_ckpt) if settings.model.resume_ckpt else None
    if place is not None:
        found = describe(place.path)
        predicted = (found.prediction_type if found else None) or predicted
        resolution = _native(place.path)
    return Situation(
        settings,
        family,
        Search(report.shape, report.card, num_images, report.overhead),
        num_images,
        predicted,
        resolution or family.resolution_of(predicted),
        sizes.parameters.get("unet", 0) >= REAL_UNET,
        frozenset(given),
    )


def _native(base: Path) -> int | None:
    """The resolution that a diffusers folder was made at, by its configs; None if they do not say."""
    if is_file(base):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError):
        size = read_object(base / "unet" / "config.json")["sample_size"]
        levels = read_object(base / VAE / "config.json")["block_out_channels"]
        if isinstance(size, int) and isinstance(levels, list):
            found = size * 2 ** (len(levels) - 1)
            return found if found in (*RESOLUTIONS, *SMALL_RESOLUTIONS) else None
    return None


def repeats_in(roots: Iterable[str]) -> dict[str, int]:
    """Folders that are named for repeats, as other trainers do, by name: `{"50_jets": 50}`."""
    found = {}
    for root in roots:
        for name in (Path(root).name, *_folders_in(Path(root))):
            if (match := _REPEATS.fullmatch(name)) and int(match[1]) > 1:
                found[name] = int(match[1])
    return found


def subject_of(roots: Iterable[str]) -> str:
    """The name of the first folder without repeats, as a part of a file name; empty for none."""
    name = Path(next(iter(roots), "")).name
    if match := _REPEATS.fullmatch(name):
        name = match[2]
    return re.sub(r"[^\w-]+", "_", name.removesuffix(".json")).strip("_-").lower()[:40]


def _folders_in(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return sorted(entry.name for entry in islice(os.scandir(folder), MAX_FOLDERS) if entry.is_dir())
    return []
