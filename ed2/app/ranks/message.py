"""What rank 0 tells the other processes of the run that it has resolved, and the run that they make of it.

Values for JSON: nothing that a process receives can run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ed2.app.images.validating import ValidationSplit
from ed2.app.jobs import RunContext
from ed2.app.preflight import ModelSizes
from ed2.app.run_spec import Machine, RunSpec, open_model
from ed2.checkpoint.resume import Checkpoint
from ed2.data.example import Dataset, Example, file_stamp
from ed2.data.image_config import Tag, TagShuffle
from ed2.errors import DatasetError, Problem
from ed2.models.files.lora_base import LoraBase
from ed2.ranks.base import Message, Ranks
from ed2.settings.files import with_defaults
from ed2.training.state import TrainState

MAX_NAMED = 5


def as_message(spec: RunSpec, context: RunContext) -> Message:
    """A run that is about to be built."""
    return {
        "settings": spec.settings.flat(),
        "base": str(spec.base),
        "vae": str(spec.vae) if spec.vae else None,
        "family": spec.sizes.family,
        "parameters": dict(spec.sizes.parameters),
        "checkpoint": str(spec.checkpoint.path) if spec.checkpoint else None,
        "same_folder": spec.same_folder,
        "lora_base": asdict(spec.lora_base) if spec.lora_base else None,
        "images": [_as_values(example) for example in spec.dataset.examples],
        "curves": {tag: [_as_values(example) for example in own] for tag, own in spec.images.curves.items()},
        "run_dir": str(context.run_dir),
        "state": context.state.as_dict(),
    }


def spec_of(message: Message, ranks: Ranks) -> RunSpec:
    """The run as this process trains it, on its own device.

    Raises:
        Ed2Error: something of it is missing on this machine.
    """
    settings = with_defaults(message["settings"])
    examples = _examples(message["images"])
    if ranks.local_size < ranks.size:
        examples = _on_this_machine(examples)
    base, vae = Path(message["base"]), Path(message["vae"]) if message["vae"] else None
    curves = {tag: _examples(own) for tag, own in message["curves"].items()}
    dataset = Dataset(tuple(map(Path, settings.data.data_root)), examples, (), (), "")
    return RunSpec(
        settings=settings,
        base=base,
        vae=vae,
        source=open_model(settings, base, vae),
        sizes=ModelSizes(message["family"], message["parameters"]),
        machine=Machine.of(settings, ranks),
        images=ValidationSplit(dataset, curves),
        checkpoint=Checkpoint.open(Path(message["checkpoint"])) if message["checkpoint"] else None,
        same_folder=message["same_folder"],
        lora_base=_lora_base(message["lora_base"]),
    )


def state_of(message: Message) -> TrainState:
    """The progress that the run begins with."""
    return TrainState.from_dict(message["state"])


def _as_values(example: Example) -> dict[str, Any]:
    return {**asdict(example), "path": str(example.path)}


def _examples(values: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
    return tuple(_example(one) for one in values)


def _example(values: Mapping[str, Any]) -> Example:
    shuffle = values["shuffle"]
    if shuffle:
        shuffle = TagShuffle(**{**shuffle, "tags": tuple(Tag(*tag) for tag in shuffle["tags"])})
    own = {"path": Path(values["path"]), "size": tuple(values["size"]), "bucket": tuple(values["bucket"])}
    return Example(**{**values, **own, "shuffle": shuffle})


def _lora_base(values: Mapping[str, Any] | None) -> LoraBase | None:
    return LoraBase(**{**values, "attention_levels": tuple(values["attention_levels"])}) if values else None


def _on_this_machine(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The images as files of this machine, which may be copies with other times.

    Raises:
        DatasetError: some are missing, or of another size.
    """
    found, problems = [], []
    for example in examples:
        try:
            stamp = file_stamp(example.path.stat())
        except OSError:
            problems.append(Problem(str(example.path), "it is missing on this machine."))
            continue
        size_bits = (1 << 40) - 1
        if example.stamp is not None and (stamp ^ example.stamp) & size_bits:
            problems.append(Problem(str(example.path), "it is another file on this machine."))
        found.append(replace(example, stamp=stamp))
    if problems:
        more = [Problem(None, f"and {len(problems) - MAX_NAMED:,} more.")] if len(problems) > MAX_NAMED else []
        fix = Problem(None, "Share the folder, or copy it to the same path on every machine.")
        raise DatasetError("The images are not the same on every machine:", [*problems[:MAX_NAMED], *more, fix])
    return tuple(found)
