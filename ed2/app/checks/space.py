"""Disk space for the checkpoints of a run, known before it starts. Needs no torch."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from ed2.app.preflight import ModelSizes
from ed2.checkpoint.room import existing, shortage
from ed2.errors import Problem, SettingsError
from ed2.models.families.facts import FACTS, FamilyFacts, PartFacts
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import file_size
from ed2.vram.shapes import shape_of
from ed2.vram.trained_weights import TrainedWeights, adapter_weights, state_bytes

WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
KEPT_ASIDE = {"schedulefree": 4}
"""Bytes per trained weight that a checkpoint holds in addition to the averaged one."""
STATES_AT_ONCE = 4
"""Checkpoints that have a training state while one is written: the newest three, and the new one."""
BEST_AND_NEW = 2
"""Checkpoints besides those of keep_last: the best one, and the new one, written before an old one is removed."""


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
    state = sum(_state_bytes(family, family.part(name), settings, count) for name, count in trained.items())
    single = _single_bytes(settings, sum(parameters.values()))
    if settings.ema.is_on:
        state += 4 * sum(trained.values())
        weights, single = weights + frozen + 4 * sum(trained.values()), 2 * single
    return CheckpointSize(weights, round(state), single)


def _lora_size(settings: Settings, sizes: ModelSizes) -> CheckpointSize:
    """That of a LoRA: adapters in fp32, their optimizer's state, and a single file."""
    family, shape = FACTS[sizes.family], shape_of(sizes.family, sizes.parameters)
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


def _state_bytes(family: FamilyFacts, part: PartFacts, settings: Settings, count: int) -> float:
    """Bytes of optimizer state of a network in a checkpoint."""
    on_card = settings.run.device != "cpu" and shutil.which("nvidia-smi") is not None
    optimizer = settings.optimizer_of(part, on_card=on_card)
    trained = TrainedWeights.share_of(shape_of(family.name).traced.parameters[part.name], count)
    return state_bytes(optimizer, trained) + KEPT_ASIDE.get(optimizer, 0) * count
