"""Checks before anything is loaded, without torch: writable folders, installed packages, the size of the model."""

import importlib.util
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ed2.app.run_settings import checkpoint_at
from ed2.disk import why_not_writable
from ed2.disk_errors import plain_reason
from ed2.errors import ModelError, Problem, SettingsError
from ed2.models.families.facts import DEFAULT, FACTS, VAE, FamilyFacts, PartFacts, family_of_config
from ed2.models.families.kinds import described, kind_of
from ed2.models.files.base_model import locate, needs_conversion
from ed2.models.files.description import assumed_prediction
from ed2.models.files.header import HeaderError, is_pickle, read_header
from ed2.models.files.lora_base import model_behind
from ed2.models.files.pickled import any_header, header_in_pickle
from ed2.models.files.pickled_folder import pickled_parts
from ed2.models.files.vae_files import find_vae
from ed2.models.files.weight_files import find_pickled_weights, find_weights
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.small_files import is_file, read_object
from ed2.text import file_size
from ed2.vram.shapes import ModelShape, shape_of

OTHER_FOLDER = "Choose another folder, or change its permissions."
MODULES = {
    "adamw8bit": "bitsandbytes",
    "lion": "bitsandbytes",
    "lion8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedulefree": "schedulefree",
}
"""The packages that optimizers need besides PyTorch."""


@dataclass(frozen=True)
class ModelSizes:
    """How many weights a base model has, what could not be found out, and what a start does with it."""

    family: str
    parameters: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> ModelShape:
        """The model's shape, for the memory plan."""
        return shape_of(self.family, self.parameters)


def written_to(settings: Settings) -> dict[str, Path]:
    """The folders that a run writes to, by their settings."""
    folders = {"logdir": Path(settings.logging.logdir)}
    if not settings.checkpoint.no_save_ckpt:
        folders["save_ckpt_dir"] = Path(settings.checkpoint.save_ckpt_dir or PROGRAM_DIR)
    if settings.memory.cache_latents or settings.memory.cache_text:
        folders["cache_dir"] = Path(settings.memory.cache_dir)
    return folders


def not_writable(folder: Path, reason: str) -> str:
    """A sentence saying that a folder cannot be written, and why."""
    return f"the folder {folder} cannot be written ({reason})."


def require_writable(settings: Settings) -> None:
    """Create the folders that the run writes to, and try to write there.

    Raises:
        SettingsError: names each setting whose folder cannot be written.
    """
    problems = []
    for name, folder in written_to(settings).items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reason = why_not_writable(folder)
        except OSError as error:
            reason = plain_reason(error)
        if reason:
            problems.append(Problem(name, not_writable(folder, reason), OTHER_FOLDER))
    if problems:
        raise SettingsError("The run has nowhere to write:", problems)


def require_parts(settings: Settings) -> None:
    """Check that the packages of the chosen optimizers are installed.

    Raises:
        SettingsError: names what is missing, and how to get it.
    """
    problems = []
    for name in ("optimizer", "text_encoder_optimizer"):
        chosen = settings.flat()[name]
        module = MODULES.get(str(chosen))
        if module and importlib.util.find_spec(module) is None:
            fix = f"Install it with ./launch.sh add {chosen} (launch.bat add {chosen}), or choose another."
            if module == "bitsandbytes":
                fix = "Choose adamw."
            problems.append(Problem(name, f"{chosen} needs {module}, which is not installed.", fix))
    if problems:
        raise SettingsError("A part is not installed:", problems)


def model_sizes(settings: Settings) -> ModelSizes:
    """Count the weights of the base model from its files' headers; a missing model is planned as its family."""
    name, family = settings.model.resume_ckpt, FACTS[settings.model.model_family or DEFAULT.name]
    if not name:
        what = f"No base model is chosen yet, so {described(family.name)} is planned."
        return _usual(family, Problem(None, what))
    path = trained_model(settings)
    if path is None:
        return _usual(family, _planned_instead(settings, family, is_here=False))
    if is_file(path):
        return _sizes_of_file(path, settings)
    here = family_of_config(_json_object(path / "unet" / "config.json"))
    counts = {part.name: _parameters_in(path, part) for part in here.parts}
    counts[VAE] = _other_vae(settings, here) or counts[VAE]
    if all(counts.values()):
        return ModelSizes(here.name, counts, (), _conversion(path, here))
    return _usual(family, _planned_instead(settings, family, is_here=True))


def trained_model(settings: Settings) -> Path | None:
    """Where the base model is: of a run its newest checkpoint, of a LoRA its base; None if it is not on this disk."""
    place = locate(settings.model.resume_ckpt)
    if place is None:
        return None
    path = checkpoint_at(place.path) or place.path
    with suppress(ModelError):  # a start refuses it
        path = model_behind(path, settings.lora.lora_base)
    return path


def _planned_instead(settings: Settings, family: FamilyFacts, *, is_here: bool) -> Problem:
    """Why the usual size of a family is planned."""
    why, fix = "holds no model that can be trained here", ""
    if not is_here:
        why = "is not on this disk"
        if not settings.model.model_family:
            others = " or ".join(name for name in FACTS if name != DEFAULT.name)
            fix = f"If it is another, set --model_family to {others}."
    name = settings.model.resume_ckpt
    return Problem(None, f"The base model {name} {why}, so {described(family.name)} is planned.", fix)


def _usual(family: FamilyFacts, problem: Problem) -> ModelSizes:
    shape = shape_of(family.name)
    counts = {part.name: shape.numbers(part.name) for part in family.parts}
    return ModelSizes(family.name, counts, (problem,))


def _sizes_of_file(file: Path, settings: Settings) -> ModelSizes:
    """Count the weights of a single file; one that cannot be read or is of another kind is planned as the default."""
    try:
        header = header_in_pickle(file) if is_pickle(file) else read_header(file)
        family = FACTS.get(kind_of(header.shapes))
    except (ModelError, HeaderError):
        family = None
    if family is None:
        what = f"{file.name} cannot be trained here, so {described(DEFAULT.name)} is planned."
        return _usual(DEFAULT, Problem(None, what))
    counts = {}
    for part in family.parts:
        shapes = [shape for name, shape in header.shapes.items() if name.startswith(part.prefix)]
        counts[part.name] = sum(map(math.prod, shapes))
    counts[VAE] = _other_vae(settings, family) or counts[VAE] or shape_of(family.name).numbers(VAE)
    assumed = "" if settings.model.prediction_type else assumed_prediction(file, family, header)
    notes = (*_conversion(file, family), *filter(None, [assumed]))
    return ModelSizes(family.name, counts, (), notes)


def _other_vae(settings: Settings, family: FamilyFacts) -> int:
    """The weights of the VAE that takes the place of the model's; 0 if there is none, or it cannot be used."""
    place = locate(settings.model.vae) if settings.model.vae else None
    if place is None:
        return 0
    try:
        found = find_vae(place.path, family, may_convert=True)
    except ModelError:
        return 0
    shapes = [shape for name, shape in found.header.shapes.items() if name.startswith(found.prefix)]
    return sum(map(math.prod, shapes))


def _conversion(path: Path, family: FamilyFacts) -> tuple[str, ...]:
    """A note on what a start does with a base model in PyTorch's own format; none for others."""
    if not needs_conversion(path):
        return ()
    files = [path]
    if not is_file(path):
        files = list(chain(*(found.files for found in pickled_parts(path).values())))
    size = file_size(sum(file.stat().st_size for file in files))
    what = f"{path.name} is {described(family.name)} of {size} in a format that can run code."
    then = "The start of a run converts it once into user/models, without running anything in it, and trains that."
    return (f"{what} {then}",)


def _parameters_in(folder: Path, part: PartFacts) -> int:
    """Numbers in the files of a part, from their headers; 0 if one is missing or damaged."""
    pickled = find_pickled_weights(folder, part)
    found = pickled or find_weights(folder, part)
    if found is None:
        return 0
    try:
        return sum(any_header(file).num_weights for file in found.files)
    except (ModelError, HeaderError):
        return 0


def _json_object(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except (OSError, ValueError):
        return {}
