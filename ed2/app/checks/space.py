"""Disk space for the checkpoints and caches of a run, known before it starts. Needs no torch."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.app.preflight import ModelSizes
from ed2.checkpoint.room import DISK_MARGIN, existing, shortage
from ed2.data.example import Example
from ed2.errors import Problem, SettingsError
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import counted, file_size
from ed2.vram.card import card_for
from ed2.vram.shapes import TrainedWeights, adapter_weights, shape_of, state_bytes

WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
KEPT_ASIDE = {"schedulefree": 4}
"""Bytes per trained weight that a checkpoint holds in addition to the averaged one."""
STATES_AT_ONCE = 4
"""Checkpoints that have a training state while one is written: the newest three, and the new one."""
BEST_AND_NEW = 2
"""Checkpoints besides those of keep_last: the best one, and the new one, written before an old one is removed."""
LATENT_BYTES = 2 * 4
"""Mean and standard deviation in fp32."""
EMBEDDING_BYTES = 4
CAPTION_TOKENS = 77


@dataclass(frozen=True)
class CheckpointSize:
    """Bytes of one checkpoint: trained parts as they are trained and averages in fp32, the others in fp16.

    Attributes:
        model: its diffusers folder; with an EMA, that of the EMA too.
        state: its training state, which only the newest checkpoints keep.
        single: its single files.
    """

    model: int
    state: int
    single: int

    @property
    def total(self) -> int:
        """The sum of all three."""
        return self.model + self.state + self.single


def checkpoint_size(settings: Settings, sizes: ModelSizes) -> CheckpointSize:
    """How much one checkpoint takes."""
    parameters = sizes.parameters
    family = FACTS[sizes.family]
    if settings.model.method == "lora":
        return _lora_size(settings, sizes)
    trained = {name: parameters[name] for name in settings.model.trained_parts(family)}
    frozen = 2 * sum(n for part, n in parameters.items() if part not in trained)
    weights = frozen + WEIGHT_BYTES[settings.memory.weights_dtype] * sum(trained.values())
    on_card = card_for(settings.run.device).kind == "cuda"
    state = 0.0
    for name, count in trained.items():
        state += _state_bytes(family, name, settings.optimizer_of(family.part(name), on_card=on_card), count)
    single = _single_bytes(settings, sum(parameters.values()))
    if settings.ema.is_on:
        state += 4 * sum(trained.values())
        weights, single = weights + frozen + 4 * sum(trained.values()), 2 * single
    return CheckpointSize(weights, round(state), single)


def _lora_size(settings: Settings, sizes: ModelSizes) -> CheckpointSize:
    """That of a LoRA: adapters in fp32, their optimizer's state, and a single file."""
    family, shape = FACTS[sizes.family], sizes.shape
    trained = settings.model.trained_parts(family)
    numbers = round(sum(adapter_weights(shape, name, settings.lora).numbers for name in trained))
    copies = 1 + settings.ema.is_on
    single = _single_bytes(settings, numbers)
    return CheckpointSize(4 * numbers * copies, (4 + copies * 4) * numbers, single * copies)


def _single_bytes(settings: Settings, numbers: int) -> int:
    """Bytes of a single file with so many numbers; 0 where none is written."""
    if settings.checkpoint.no_save_ckpt:
        return 0
    return WEIGHT_BYTES[settings.checkpoint.single_file_dtype] * numbers


def disk_forecast(settings: Settings, sizes: ModelSizes) -> dict[str, int]:
    """How much one checkpoint takes, how many are certain to be kept, the best one among them, and what is free."""
    every, count = settings.checkpoint.save_every_n_epochs, 1
    if every:
        count = math.ceil(settings.run.max_epochs / every)
    return {
        "checkpoint_bytes": checkpoint_size(settings, sizes).total,
        "checkpoints": count + settings.keeps_best,
        "free_bytes": shutil.disk_usage(existing(Path(settings.logging.logdir))).free,
    }


def disk_lines(settings: Settings, sizes: ModelSizes) -> list[str]:
    """Sentences on the disk space that checkpoints take."""
    disk = disk_forecast(settings, sizes)
    size, free = file_size(disk["checkpoint_bytes"]), file_size(disk["free_bytes"])
    lines = [f"A checkpoint takes about {size} on disk; {free} free."]
    if disk["checkpoints"] > 1:
        total = file_size(sum(_required_bytes(settings, sizes, disk["checkpoints"]).values()))
        kept = "all"
        if settings.checkpoint.keep_last:
            kept = f"the newest {settings.checkpoint.keep_last} and the best"
        lines.append(f"{disk['checkpoints']} checkpoints will be written and {kept} kept: about {total}.")
    return lines + space_notes(settings, sizes)


def space_notes(settings: Settings, sizes: ModelSizes) -> list[str]:
    """A warning if one checkpoint fits on the disk but all of them together do not."""
    count = disk_forecast(settings, sizes)["checkpoints"]
    short = shortage(_required_bytes(settings, sizes, count))
    if short is None or count == 1:
        return []
    return [
        f"The checkpoints of this run will fill the disk: they take about {file_size(short.required)}, and "
        f"only {file_size(short.free)} is free in {short.folder}. Set keep_last, save less often, or choose another "
        "folder."
    ]


def require_room(settings: Settings, sizes: ModelSizes) -> None:
    """Check that the disk has room for one checkpoint, as far as the model's size is known.

    Raises:
        SettingsError: it has not.
    """
    if sizes.problems:
        return
    short = shortage(_required_bytes(settings, sizes, 1))
    if short is None:
        return
    name = "save_ckpt_dir"
    if short.folder == existing(Path(settings.logging.logdir)):
        name = "logdir"
    wanted, free = file_size(short.required), file_size(short.free)
    what = f"one checkpoint takes about {wanted} in {short.folder}, but only {free} is free."
    fix = "Free some space, or choose another folder."
    raise SettingsError("The disk is too full for this run:", [Problem(name, what, fix)])


def _required_bytes(settings: Settings, sizes: ModelSizes, count: int) -> dict[Path, int]:
    """The most bytes that `count` checkpoints take at one time, by folder."""
    keep_last, one = settings.checkpoint.keep_last, checkpoint_size(settings, sizes)
    kept = count
    if keep_last:
        kept = min(count, keep_last + BEST_AND_NEW)
    wanted = {Path(settings.logging.logdir): kept * one.model + min(kept, STATES_AT_ONCE) * one.state}
    single_dir = Path(settings.checkpoint.save_ckpt_dir or PROGRAM_DIR)
    wanted[single_dir] = wanted.get(single_dir, 0) + kept * one.single
    return wanted


def _state_bytes(family: FamilyFacts, name: str, optimizer: str, count: int) -> float:
    """Bytes in a checkpoint of what the optimizer of a network with so many weights keeps."""
    trained = TrainedWeights.share_of(shape_of(family.name).traced.parameters[name], count)
    return state_bytes(optimizer, trained) + KEPT_ASIDE.get(optimizer, 0) * count


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
