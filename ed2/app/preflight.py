"""What a run would do, and what would stop it: known before anything is loaded, without torch."""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.continued import checkpoint_at
from ed2.disk import plain_reason, why_not_writable
from ed2.errors import Problem, SettingsError
from ed2.models.files.header import HeaderError, read_header
from ed2.models.files.hub import in_hub_cache
from ed2.models.files.layout_family import family_of
from ed2.models.files.layout_names import UNET_PREFIX, VAE_PREFIX
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.vram.shapes import shape_of

OTHER_FOLDER = "Choose another folder, or change its permissions."
FAMILY_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
TEXT_PREFIXES = {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.", "sdxl": "conditioner."}
PARTS = {
    "sd1": ("unet", "text_encoder", "vae"),
    "sd2": ("unet", "text_encoder", "vae"),
    "sdxl": ("unet", "text_encoder", "text_encoder_2", "vae"),
}
MODULES = {
    "adamw8bit": "bitsandbytes",
    "lion": "bitsandbytes",
    "lion8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedulefree": "schedulefree",
}
"""What optimizers need besides PyTorch."""


@dataclass(frozen=True)
class ModelSizes:
    """How many weights a base model has, and what could not be found out."""

    family: str
    parameters: Mapping[str, int]
    problems: tuple[Problem, ...] = ()


def written_to(settings: Settings) -> dict[str, Path]:
    """The folders that a run writes to, by their settings."""
    folders = {"logdir": Path(settings.logging.logdir)}
    if not settings.checkpoint.no_save_ckpt:
        folders["save_ckpt_dir"] = Path(settings.checkpoint.save_ckpt_dir or PROGRAM_DIR)
    return folders


def not_writable(folder: Path, reason: str) -> str:
    """That a folder cannot be written, and why."""
    return f"the folder {folder} cannot be written ({reason})."


def require_writable(settings: Settings) -> None:
    """Make the folders that the run writes to, and try to write there.

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
    """See that what the chosen optimizers need is installed.

    Raises:
        SettingsError: names what is missing, and how to get it.
    """
    problems = []
    for name in ("optimizer", "text_encoder_optimizer"):
        chosen = settings.flat()[name]
        module = MODULES.get(str(chosen))
        if module and importlib.util.find_spec(module) is None:
            added = f"Install it with ./launch.sh add {chosen} (launch.bat add {chosen}), or choose another."
            fix = "Choose adamw." if module == "bitsandbytes" else added
            problems.append(Problem(name, f"{chosen} needs {module}, which is not installed.", fix))
    if problems:
        raise SettingsError("A part is not installed:", problems)


def model_sizes(settings: Settings) -> ModelSizes:
    """Count the weights of the base model from its files' headers; one that is not here is planned by its family."""
    name, family = settings.model.resume_ckpt, settings.model.model_family or "sd1"
    if not name:
        what = f"No base model is chosen yet, so an {FAMILY_NAMES[family]} model is planned."
        return _usual(family, Problem(None, what))
    folder = Path(name)
    is_here = folder.exists()
    folder = (checkpoint_at(folder) if is_here else in_hub_cache(name)) or folder
    if folder.is_file():
        return _sizes_of_file(folder)
    config = _json_object(folder / "unet" / "config.json")
    here = _family_of_config(config)
    counts = {part: _parameters_in(folder / part) for part in PARTS[here]}
    if not all(counts.values()):
        why = "holds no model that can be trained here" if is_here else "is not on this disk"
        what = f"The base model {name} {why}, so an {FAMILY_NAMES[family]} model is planned."
        is_told = is_here or settings.model.model_family
        fix = "" if is_told else "If it is another, set --model_family to sd2 or sdxl."
        return _usual(family, Problem(None, what, fix))
    counts["text_encoder"] += counts.pop("text_encoder_2", 0)
    return ModelSizes(here, counts, _untrainable(here, folder.name))


def _usual(family: str, *problems: Problem) -> ModelSizes:
    shape = shape_of(family)
    counts = {part: shape.numbers(part) for part in ("unet", "text_encoder", "vae")}
    return ModelSizes(family, counts, (*problems, *_untrainable(family, "This")))


def _family_of_config(config: Mapping[str, Any]) -> str:
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if config.get("use_linear_projection") else "sd1"


def _untrainable(family: str, name: str) -> tuple[Problem, ...]:
    if family != "sdxl":
        return ()
    what = f"{name} is an SDXL model, which cannot be trained here yet: this is only what it would take."
    return (Problem(None, what, "Choose an SD 1.x or SD 2.x model."),)


def _sizes_of_file(file: Path) -> ModelSizes:
    """Count the weights of a single file; one that cannot be trained is planned as SD 1.x."""
    shapes = _shapes_in(file)
    family = family_of(shapes)
    if family not in TEXT_PREFIXES:
        what = f"{file.name} is no model that can be trained here, so an SD 1.x model is planned."
        return _usual("sd1", Problem(None, what))
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text_encoder": TEXT_PREFIXES[family]}
    counts = {
        part: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for part, prefix in prefixes.items()
    }
    return ModelSizes(family, counts, _untrainable(family, file.name))


def _parameters_in(folder: Path) -> int:
    """Numbers in a part's safetensors file, from its header; 0 where there is none or it is damaged."""
    file = next((f for f in sorted(folder.glob("*.safetensors")) if not f.name.startswith(".")), None)
    return sum(map(math.prod, _shapes_in(file).values())) if file else 0


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors by name, from its header; none where it is damaged."""
    try:
        return dict(read_header(file).shapes)
    except HeaderError:
        return {}


def _json_object(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except (OSError, ValueError):
        return {}
