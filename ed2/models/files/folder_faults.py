"""What is wrong with a diffusers folder, told all at once before anything of it is loaded. Needs no torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ed2.errors import Problem, printable, shown
from ed2.models.files.header import Header, HeaderError, read_header
from ed2.models.files.layout_family import KINDS, family_of
from ed2.models.files.part_config import config_fault

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""The parts that hold weights, and the name of their file without its extension."""
INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
SMALL_FILES = (INDEX, SCHEDULER_CONFIG, *(f"{part}/config.json" for part in STEMS))
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
MAX_SMALL_BYTES = 16 << 20
STATE, CKPTS = "training_state", "ckpts"
"""Folders of a checkpoint and of a run, which are easily given for that itself."""
PLAIN = "Choose an SD 1.x or SD 2.x model."
WHOLE_FOLDER = "Get the whole folder again."

_OTHER_CHANNELS = {9: "an inpainting model", 8: "an InstructPix2Pix model", 7: "an upscaler", 5: "a depth model"}
_SIGNS = {
    "unet": r"^conv_in\.weight$",
    "vae": r"encoder\.conv_in\.weight$",
    "text_encoder": r"(^|\.)embeddings\.token_embedding\.weight$",
}
"""What some tensor of the part is called, whoever wrote it."""


def folder_faults(path: Path) -> list[Problem]:
    """Everything that keeps a folder from being trained; empty where it may be read."""
    if not _exists(path):
        fix = "Give a diffusers folder (one that holds model_index.json) or a .safetensors file."
        return [Problem(None, "there is no such file or folder.", fix)]
    if not (path / INDEX).is_file():
        return [_no_index(path)]
    contents, problems = _read_small_files(path)
    kind = _other_kind(contents)
    if kind:
        return [kind]
    problems += _missing(path)
    for part in STEMS:
        name = f"{part}/config.json"
        fault = config_fault(part, contents[name]) if name in contents else ""
        problems += [Problem(name, f"{fault}.", PLAIN)] if fault else []
        problems += _weights_faults(path, part)
    return problems or _strangers(contents)


def weights_file(path: Path, part: str) -> Path | None:
    """The file that holds a part's weights; None where there is none."""
    candidates = (path / part / f"{STEMS[part]}{variant}.safetensors" for variant in ("", ".fp32", ".fp16"))
    return next((file for file in candidates if file.is_file()), None)


def small_names(path: Path) -> list[str]:
    """Every file of a folder that belongs to a model and is not weights, by its path in it."""
    tokenizer = [f"tokenizer/{name}" for name in TOKENIZER_FILES if (path / "tokenizer" / name).is_file()]
    return [*(name for name in SMALL_FILES if (path / name).is_file()), *tokenizer]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, or a folder above may not be looked into
        return False


def _no_index(path: Path) -> Problem:
    if path.is_file():
        return Problem(None, "this is a file.", "Give a diffusers folder: one that holds model_index.json.")
    part = _class_in(path / "config.json")
    if part:
        what = f"this folder holds one part alone ({shown(part)})."
        return Problem(None, what, "Give the folder of the whole model: the one that holds model_index.json.")
    if path.name == STATE and (path / "state.json").is_file():
        return Problem(None, "this is the training state of a checkpoint.", f"Give the folder above it: {path.parent}")
    if next(path.glob(f"*/{CKPTS}"), None):
        fix = f"Continue the newest with --resume_ckpt findlast --logdir {path}, or give the folder of one."
        return Problem(None, "this is a folder of runs.", fix)
    inside = sorted(p.parent.name for p in path.glob(f"*/{INDEX}")) + sorted(p.name for p in path.glob("*.safetensors"))
    fix = (
        f"Did you mean {' or '.join(inside[:3])} inside it?" if inside else "It needs model_index.json, unet, vae, ..."
    )
    return Problem(None, "this folder holds no diffusers model.", fix)


def _class_in(config: Path) -> object:
    try:
        values = _object(config)
    except (OSError, ValueError):
        return None
    return values.get("_class_name") or values.get("architectures")


def _read_small_files(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The JSON files of a folder by name, and those that are none."""
    contents: dict[str, Any] = {}
    problems = []
    for name in small_names(path):
        try:
            if (path / name).stat().st_size > MAX_SMALL_BYTES:
                problems.append(Problem(name, f"it is larger than {MAX_SMALL_BYTES >> 20} MB.", WHOLE_FOLDER))
            elif name.endswith(".json"):
                contents[name] = _object(path / name)
        except OSError as error:
            problems.append(Problem(name, f"it cannot be read ({error.strerror or error}).", "Check who may read it."))
        except ValueError as error:
            what = f"this is no proper JSON ({printable(str(error), 100)})."
            problems.append(Problem(name, what, "Get this file again."))
    return contents, problems


def _object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("its brackets lie too deep in each other") from None
    if not isinstance(values, dict):
        raise ValueError("it is no object")
    return values


def _other_kind(contents: Mapping[str, Any]) -> Problem | None:
    name = str(contents.get(INDEX, {}).get("_class_name", ""))
    if (name and not name.startswith("StableDiffusion")) or "XL" in name or name.startswith("StableDiffusion3"):
        return Problem(INDEX, f"this is a {printable(name)}, which cannot be trained here.", PLAIN)
    channels = contents.get("unet/config.json", {}).get("in_channels", 4)
    if channels != 4:
        known = _OTHER_CHANNELS.get(channels) if isinstance(channels, int) else None
        kind = known or f"a model of {shown(channels)} channels"
        return Problem("unet/config.json", f"this is {kind}, which cannot be trained here.", "Choose the plain model.")
    return None


def _missing(path: Path) -> list[Problem]:
    names = [name for name in SMALL_FILES if not (path / name).is_file()]
    has_vocabulary = any((path / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    names += [] if has_vocabulary else ["tokenizer/vocab.json"]
    return [Problem(name, "the file is missing.", WHOLE_FOLDER) for name in names]


def _weights_faults(path: Path, part: str) -> list[Problem]:
    file = weights_file(path, part)
    if file is None:
        return [_no_weights(path, part)]
    name = f"{part}/{file.name}"
    try:
        header = read_header(file)
    except HeaderError as error:
        return [Problem(name, error.what, error.fix)]
    return _stranger(part, name, header)


def _no_weights(path: Path, part: str) -> Problem:
    """A part without a file that is read here: say which one there is instead."""
    names = _names(path / part)
    fix = "Get the safetensors files of this model."
    if any(name.endswith(".safetensors.index.json") for name in names):
        what = "the weights are in several pieces, which are not read here."
        return Problem(f"{part}/{STEMS[part]}.safetensors", what, "Get this part in one file.")
    pickled = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))), "")
    what = f"only {pickled} is there, a format that can run code." if pickled else "the weights are missing."
    return Problem(f"{part}/{STEMS[part]}.safetensors", what, fix if pickled else WHOLE_FOLDER)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(place.name for place in folder.iterdir())
    except OSError:
        return []


def _stranger(part: str, name: str, header: Header) -> list[Problem]:
    """Weights that belong to something else, told by the names of their tensors."""
    if any(map(re.compile(_SIGNS[part]).search, header.shapes)):
        return []
    kind = family_of(header.shapes)
    what = KINDS.get(kind, "something else") if kind not in ("sd1", "sd2") else "a whole model in one file"
    return [Problem(name, f"this is {what}, not the {part.replace('_', ' ')} of a folder.", WHOLE_FOLDER)]


def _strangers(contents: Mapping[str, Any]) -> list[Problem]:
    """Parts that are whole each and do not fit each other."""
    asked = contents["unet/config.json"].get("cross_attention_dim", 1280)
    given = contents["text_encoder/config.json"].get("hidden_size", 512)
    if all(width == given for width in (asked if isinstance(asked, list) else [asked])):
        return []
    what = f"the UNet reads text of width {shown(asked)}, and the text encoder gives {shown(given)}: two models."
    return [Problem("unet/config.json", what, PLAIN)]
