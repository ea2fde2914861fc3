"""Finds everything wrong with a diffusers folder, before any of it is loaded. Needs no torch."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ed2.errors import ModelError, Problem, printable, shown
from ed2.models.families.facts import (
    DEFAULT,
    FACTS,
    VAE,
    FamilyFacts,
    PartFacts,
    family_of_config,
    is_trainable_pipeline,
    trainable_titles,
)
from ed2.models.families.kinds import CHANNEL_KINDS, described, kind_of, kind_of_config
from ed2.models.files.header import Header, HeaderError, is_pickle, read_header
from ed2.models.files.pickled import header_in_pickle
from ed2.models.files.weight_files import find_pickled_weights, find_weights, index_problem, joined
from ed2.models.scheduler_config import scheduler_problem
from ed2.small_files import exists
from ed2.terminal import LAUNCHER

INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
UNET_CONFIG = "unet/config.json"
EXTRA_FILE = "single_file_extra.safetensors"
"""In our checkpoints of models that came from a single file; other programs ignore it."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
MAX_SMALL_BYTES = 16 << 20
INSIDE = ("*", "snapshots/*", "*/snapshots/*")
"""Where a folder that is no model may have one: the last two in the hub's cache."""
STATE, CKPTS = "training_state", "ckpts"
"""Folders of a checkpoint and of a run, which are easily mistaken for the checkpoint or run itself."""
OTHER_MODEL = f"Choose an {trainable_titles()} model."
WHOLE_FOLDER = "Get the whole folder again."

MAX_NUMBER = 1_000_000
"""More than any layer's width; configs hold counts, widths and small factors."""
MAX_LAYERS = 100
MAX_ITEMS = 64
LAYER_COUNTS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block", "num_attention_heads")
CODE = ("auto_map", "custom_pipeline", "quantization_config")


def folder_problems(
    path: Path, *, prediction_type: str | None = None, has_vae: bool = False, may_convert: bool = False
) -> list[Problem]:
    """Everything that keeps a folder from being trained on; empty if it can be read.

    Args:
        path: the folder.
        prediction_type: what the model predicts, in place of what its scheduler says.
        has_vae: whether a VAE comes from elsewhere, so that this folder needs none.
        may_convert: whether weights in PyTorch's own format are converted first.
    """
    if not exists(path):
        fix = "Choose a diffusers folder (one that contains model_index.json) or a .safetensors or .ckpt file."
        return [Problem(None, "there is no such file or folder.", fix)]
    if not (path / INDEX).is_file():
        return [_no_index(path)]
    family = family_in(path)
    contents, problems = _read_small_files(path, family)
    other = _other_kind(contents, family)
    if other:
        return [other]
    parts = [part for part in family.parts if not (has_vae and part.name == VAE)]
    problems += _missing(path, family, parts)
    for part in parts:
        if part.config in contents:
            why = config_problem(part, contents[part.config])
            if why:
                problems.append(Problem(part.config, f"{why}.", OTHER_MODEL))
        problems += _weights_problems(path, part, may_convert=may_convert)
    problems += _scheduler_problems(contents, prediction_type)
    return problems or _mismatched(contents, family)


def _scheduler_problems(contents: Mapping[str, Any], prediction_type: str | None) -> list[Problem]:
    if SCHEDULER_CONFIG not in contents:
        return []
    config = dict(contents[SCHEDULER_CONFIG])
    if prediction_type:
        config["prediction_type"] = prediction_type
    why = scheduler_problem(config)
    if not why:
        return []
    return [Problem(SCHEDULER_CONFIG, f"{why}.", OTHER_MODEL)]


def family_in(path: Path) -> FamilyFacts:
    """The family of a diffusers folder, `DEFAULT` if its UNet does not say."""
    try:
        return family_of_config(read_config(path / UNET_CONFIG))
    except (OSError, ValueError):
        return DEFAULT


def network_config(part: PartFacts, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a part; those of a text encoder may lie inside those of a whole CLIP."""
    inner = values.get("text_config") or values.get("text_config_dict")
    if not part.model_types or "hidden_size" in values or not isinstance(inner, dict):
        return values
    return {**inner, "model_type": part.model_types[0]}


def small_names(path: Path, family: FamilyFacts) -> list[str]:
    """Every file of a folder that belongs to a model of `family` and is not weights, by its path in the folder."""
    names = [INDEX, SCHEDULER_CONFIG, *(part.config for part in family.parts)]
    for tokenizer in family.tokenizers:
        names += [f"{tokenizer}/{name}" for name in TOKENIZER_FILES]
    return [name for name in names if (path / name).is_file()]


def config_problem(part: PartFacts, config: object) -> str:
    """Why a part cannot be built from its config.json, without the full stop; empty if it can be."""
    if not isinstance(config, Mapping):
        return "it contains no network settings"
    return asks_for_code(config) or _other_class(part, config) or impossible_number(config)


def asks_for_code(config: Mapping[str, Any]) -> str:
    """Why a library would run or fetch code for this configuration, without the full stop; empty if it would not."""
    for name in CODE:
        if config.get(name):
            return f"it asks for code or a library ({name}), which is not run here"
    if any("/" in str(config.get(name) or "") for name in ("_attn_implementation", "attn_implementation")):
        return "it asks for code from elsewhere (attn_implementation), which is not run here"
    return ""


def impossible_number(config: Mapping[str, Any]) -> str:
    """What in a configuration no network has, without the full stop; empty if there is nothing."""
    return next(_impossible(config), "")


def _no_index(path: Path) -> Problem:
    if path.is_file():
        return Problem(None, "this is a file.", "Choose a diffusers folder: one that contains model_index.json.")
    part = _class_in(path / "config.json")
    if part:
        what = f"this folder contains only one part of a model ({shown(part)})."
        return Problem(None, what, "Choose the folder of the whole model: the one that contains model_index.json.")
    if path.name == STATE and (path / "state.json").is_file():
        what = "this is the training state of a checkpoint."
        return Problem(None, what, f"Choose the folder above it: {path.parent}")
    if next(path.glob(f"*/{CKPTS}"), None):
        fix = f"Resume the newest one with --resume_ckpt findlast --logdir {path}, or choose the folder of one."
        return Problem(None, "this is a folder of runs.", fix)
    inside = []
    for where in INSIDE:
        inside += sorted(index.parent.relative_to(path).as_posix() for index in path.glob(f"{where}/{INDEX}"))
    inside += sorted(file.name for file in path.glob("*.safetensors"))
    fix = "It needs model_index.json, unet, vae, ..."
    if inside:
        fix = f"Did you mean {' or '.join(inside[:3])} inside it?"
    return Problem(None, "this folder contains no diffusers model.", fix)


def _class_in(config: Path) -> object:
    try:
        values = read_config(config)
    except (OSError, ValueError):
        return None
    return values.get("_class_name") or values.get("architectures")


def _read_small_files(path: Path, family: FamilyFacts) -> tuple[dict[str, Any], list[Problem]]:
    """The JSON files of a folder by name, and the problems of those that cannot be read."""
    contents: dict[str, Any] = {}
    problems = []
    for name in small_names(path, family):
        try:
            if (path / name).stat().st_size > MAX_SMALL_BYTES:
                problems.append(Problem(name, f"it is larger than {MAX_SMALL_BYTES >> 20} MB.", WHOLE_FOLDER))
            elif name.endswith(".json"):
                contents[name] = read_config(path / name)
        except OSError as error:
            what = f"it cannot be read ({error.strerror or error})."
            problems.append(Problem(name, what, "Check the permissions of the file."))
        except ValueError as error:
            problems.append(Problem(name, f"invalid JSON ({printable(str(error), 100)}).", "Get this file again."))
    return contents, problems


def read_config(file: Path) -> dict[str, Any]:
    """The content of a JSON file of a folder; some schedulers' contain infinite numbers. Raises OSError, ValueError."""
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def _other_kind(contents: Mapping[str, Any], family: FamilyFacts) -> Problem | None:
    """The problem of a folder that is a model of another kind; None if it may be one to train."""
    name = str(contents.get(INDEX, {}).get("_class_name", ""))
    if name and not is_trainable_pipeline(name):
        return Problem(INDEX, f"this is a {printable(name)}, which cannot be trained here.", OTHER_MODEL)
    kind = kind_of_config(contents.get(UNET_CONFIG, {}))
    if kind not in FACTS:
        return Problem(UNET_CONFIG, f"this is {described(kind)}, which cannot be trained here.", OTHER_MODEL)
    channels = contents.get(UNET_CONFIG, {}).get("in_channels", family.latent_channels)
    if channels == family.latent_channels:
        return None
    what = f"a model with {shown(channels)} input channels"
    if isinstance(channels, int) and channels in CHANNEL_KINDS:
        what = described(CHANNEL_KINDS[channels])
    return Problem(UNET_CONFIG, f"this is {what}, which cannot be trained here.", "Choose the plain model.")


def _missing(path: Path, family: FamilyFacts, parts: Iterable[PartFacts]) -> list[Problem]:
    required = (INDEX, SCHEDULER_CONFIG, *(part.config for part in parts))
    names = [name for name in required if not (path / name).is_file()]
    for tokenizer in family.tokenizers:
        if not any((path / tokenizer / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            names.append(f"{tokenizer}/vocab.json")
    return [Problem(name, "the file is missing.", WHOLE_FOLDER) for name in names]


def _weights_problems(path: Path, part: PartFacts, *, may_convert: bool) -> list[Problem]:
    pickled = find_pickled_weights(path, part) if may_convert else None
    found = pickled or find_weights(path, part)
    if found is None:
        return [_no_weights(path, part)]
    if found.problem:
        return [found.problem]
    read = header_in_pickle if pickled else read_header
    headers: dict[str, Header] = {}
    for file in found.files:
        try:
            headers[file.name] = read(file)
        except ModelError as error:
            return [Problem(f"{part.name}/{file.name}", problem.what, problem.fix) for problem in error.problems]
        except HeaderError as error:
            fix = _convert_advice(path) if is_pickle(file) else error.fix
            return [Problem(f"{part.name}/{file.name}", error.what, fix)]
    if wrong := index_problem(found, headers):
        return [wrong]
    return _other_weights(part, f"{part.name}/{found.path.name}", joined(headers.values()))


def _no_weights(path: Path, part: PartFacts) -> Problem:
    """The problem of a part without a file that can be read: says which one is there instead."""
    pickled = find_pickled_weights(path, part)
    if pickled:
        what = f"only {pickled.path.name} is there, in a format that can run code."
        return Problem(part.file, what, _convert_advice(path))
    names = _names(path / part.name)
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    if others:
        what = f"the weights are missing; the folder has {', '.join(map(printable, others[:3]))}."
        return Problem(part.file, what, "Rename that file if it holds them, or get the whole folder again.")
    return Problem(part.file, "the weights are missing.", WHOLE_FOLDER)


def _convert_advice(folder: Path) -> str:
    name = folder.name or "MODEL"
    return f'Convert the folder; no code in it is run: {LAUNCHER} convert "{name}" "{name}-converted"'


def _names(folder: Path) -> list[str]:
    try:
        return sorted(place.name for place in folder.iterdir())
    except OSError:
        return []


def _other_weights(part: PartFacts, name: str, header: Header) -> list[Problem]:
    """The problem of weights that belong to something else, going by the names of their tensors."""
    if any(map(re.compile(part.sign).search, header.shapes)):
        return []
    kind, wanted = kind_of(header.shapes), f"the {part.title} of a diffusers folder"
    if kind == "unknown":
        what = f"its tensors, such as {printable(min(header.shapes))}, are not those of {wanted}."
        return [Problem(name, what, WHOLE_FOLDER)]
    what = "a whole model in one file" if kind in FACTS else described(kind)
    return [Problem(name, f"this is {what}, not {wanted}.", WHOLE_FOLDER)]


def _mismatched(contents: Mapping[str, Any], family: FamilyFacts) -> list[Problem]:
    """The problem of parts that are complete but do not fit together."""
    taken = contents[UNET_CONFIG].get("cross_attention_dim", 1280)
    widths = taken
    if not isinstance(taken, list):
        widths = [taken]
    configs = [network_config(encoder, contents[encoder.config]) for encoder in family.text_encoders]
    sizes = [config.get("hidden_size", 512) for config in configs]
    given: object = sizes
    if all(isinstance(size, int) for size in sizes):
        given = sum(sizes)
    if all(width == given for width in widths):
        return []
    gives = "text encoder gives"
    if len(sizes) > 1:
        gives = "text encoders together give"
    what = f"the UNet takes text of width {shown(taken)}, but the {gives} {shown(given)}: different models."
    return [Problem(UNET_CONFIG, what, OTHER_MODEL)]


def _other_class(part: PartFacts, config: Mapping[str, Any]) -> str:
    found = config.get("_class_name")
    if not part.model_types and found and found != part.class_name:
        return f"this is a {shown(found)}, but {part.class_name} is needed"
    if part.model_types and config.get("model_type", part.model_types[0]) not in part.model_types:
        return f"this is a text encoder of type {shown(config['model_type'])}, but CLIP is needed"
    return ""


def _impossible(config: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name, value in config.items():
        items = value if isinstance(value, list | tuple) else [value]
        if len(items) > MAX_ITEMS or depth > 3:
            yield f"{shown(name)} holds more than a network can have"
            continue
        highest = MAX_LAYERS if name in LAYER_COUNTS else MAX_NUMBER
        for item in items:
            if isinstance(item, int | float) and not abs(item) <= highest:  # NaN compares as false
                yield f"{name} is {shown(item)}, which no network has"
            elif isinstance(item, Mapping):
                yield from _impossible(item, depth + 1)
