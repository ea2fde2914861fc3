"""Disk space for the caches of a run, known before it starts. Needs no torch."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ed2.app.preflight import ModelSizes
from ed2.checkpoint.room import DISK_MARGIN, existing
from ed2.data.example import Example
from ed2.errors import Problem, SettingsError
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.settings.schema import Settings
from ed2.text import counted, file_size
from ed2.vram.shapes import shape_of

LATENT_BYTES = 2 * 4
"""Mean and standard deviation in fp32."""
EMBEDDING_BYTES = 4
CAPTION_TOKENS = 77


def cache_bytes(settings: Settings, sizes: ModelSizes, examples: Sequence[Example]) -> int:
    """The most that the caches of these images and captions take; 0 if both are off."""
    family, trained = FACTS[sizes.family], [example for example in examples if example.multiply > 0]
    total = 0
    if settings.memory.cache_latents:
        downscale = shape_of(family.name).traced.downscale
        cells = sum(one.bucket[0] * one.bucket[1] for one in trained) // downscale**2
        total += LATENT_BYTES * family.latent_channels * cells * settings.memory.cache_variants
    if settings.memory.cache_text and not _trains_text(settings, family):
        num_captions = len({"", *(one.caption for one in trained if not one.shuffle)})
        total += num_captions * settings.data.caption_chunks * CAPTION_TOKENS * _width(family) * EMBEDDING_BYTES
    return total


def cache_lines(settings: Settings, sizes: ModelSizes, examples: Sequence[Example]) -> list[str]:
    """A sentence on the disk space that the caches take; none if they are off."""
    num_bytes = cache_bytes(settings, sizes, examples)
    if not num_bytes:
        return []
    free = file_size(shutil.disk_usage(existing(Path(settings.memory.cache_dir))).free)
    images = counted(sum(one.multiply > 0 for one in examples), "image")
    return [
        f"The cache of {images} takes up to {file_size(num_bytes)} in {settings.memory.cache_dir}; {free} free.",
        *cache_notes(settings, sizes, examples),
    ]


def cache_notes(settings: Settings, sizes: ModelSizes, examples: Sequence[Example]) -> list[str]:
    """A warning if the caches do not fit on the disk, even with what is there already."""
    num_bytes, folder = cache_bytes(settings, sizes, examples), Path(settings.memory.cache_dir)
    free = shutil.disk_usage(existing(folder)).free if num_bytes else 0
    if DISK_MARGIN * num_bytes <= free or num_bytes <= free + _present_bytes(folder):
        return []
    return [
        f"The cache does not fit on the disk: it takes up to {file_size(num_bytes)}, and only {file_size(free)} is "
        f"free in {folder}. Lower cache_variants, choose another cache_dir, or turn cache_latents off."
    ]


def require_cache_room(settings: Settings, sizes: ModelSizes, examples: Sequence[Example]) -> None:
    """Check that the disk has room for the caches, as far as the model's size is known.

    Raises:
        SettingsError: it has not.
    """
    if sizes.problems:
        return
    if notes := cache_notes(settings, sizes, examples):
        raise SettingsError("The disk is too full for this run:", [Problem("cache_dir", note) for note in notes])


def _trains_text(settings: Settings, family: FamilyFacts) -> bool:
    trained = settings.model.trained_parts(family)
    return any(part.name in trained for part in family.text_encoders)


def _width(family: FamilyFacts) -> int:
    """Numbers per token from all text encoders together; a final norm has a weight and a bias for each."""
    counts = shape_of(family.name).traced.parameters
    return sum(counts[part.name]["final_norm"] for part in family.text_encoders) // 2


def _present_bytes(folder: Path) -> int:
    """Bytes of the shards of any cache in a folder; some of them may serve this run."""
    return sum(file.stat().st_size for file in folder.glob("*-*/*.safetensors"))
