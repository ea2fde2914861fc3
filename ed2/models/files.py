"""A diffusers folder on the disk: what is in it, whether it can be trained, and how its parts are read.

Nothing in such a folder runs: weights are read from safetensors only, and which class a part becomes is decided here,
never by the folder.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.errors import ModelError, Problem

PARTS: Mapping[str, tuple[type[Any], str]] = {
    "unet": (UNet2DConditionModel, "diffusion_pytorch_model"),
    "vae": (AutoencoderKL, "diffusion_pytorch_model"),
    "text_encoder": (CLIPTextModel, "model"),
}
"""The parts that hold weights: class, and the stem of the file."""

SMALL_FILES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
TEXT_ENCODER_CONFIG = "text_encoder/config.json"
EXTRA_FILE = "single_file_extra.safetensors"
"""Lies in our checkpoints of models that came from a single file; other programs pass it over."""
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
INDEX = "model_index.json"
KEPT_PARTS = (*PARTS, "tokenizer", "scheduler")
MAX_SMALL_BYTES = 16 << 20

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder of the SD1 or SD2 family, complete and ready to be read.

    Attributes:
        small_files: every file but the weights, by its path in the folder; a checkpoint is made of these again.
        weights: the file of each part.
        dtypes: how each part's weights are stored.
    """

    path: Path
    family: str
    small_files: Mapping[str, bytes]
    weights: Mapping[str, Path]
    dtypes: Mapping[str, torch.dtype]

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str) -> nn.Module:
        """Read one part in fp32.

        Raises:
            ModelError: the weights do not fit the configuration.
        """
        kind, stem = PARTS[part]
        variant = self.weights[part].name.removeprefix(f"{stem}.").removesuffix("safetensors").strip(".") or None
        dtype_name = "dtype" if kind is CLIPTextModel else "torch_dtype"  # transformers renamed it, diffusers did not
        options = {dtype_name: torch.float32, "variant": variant, "use_safetensors": True, "local_files_only": True}
        try:
            module, found = kind.from_pretrained(self.path / part, output_loading_info=True, **options)
        except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError, SafetensorError) as error:
            what = f"its weights and its config.json do not belong together ({_first_line(error)})."
            raise _model_error(self.path, [Problem(part, what, "Get this folder anew.")]) from error
        lost = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
        if lost:
            what = f"{len(lost)} of its tensors are missing or of another shape, such as {lost[0]}."
            raise _model_error(self.path, [Problem(part, what, "Get this folder anew.")])
        return cast(nn.Module, module)

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the folder."""
        return CLIPTokenizer.from_pretrained(self.path / "tokenizer", local_files_only=True)

    def extra(self) -> dict[str, Tensor]:
        """What the single file held that this model came from, and that has no place in such a folder."""
        file = self.path / EXTRA_FILE
        return dict(load_file(file)) if file.is_file() else {}


def with_scheduler(small_files: Mapping[str, bytes], changes: Mapping[str, Any]) -> dict[str, bytes]:
    """The small files with the scheduler's configuration changed."""
    config = {**json.loads(small_files[SCHEDULER_CONFIG]), **changes}
    return {**small_files, SCHEDULER_CONFIG: (json.dumps(config, indent=2) + "\n").encode()}


def open_folder(path: Path) -> ModelFolder:
    """Look at a diffusers folder without reading its weights.

    Raises:
        ModelError: lists all that is missing, or says which kind of model this is if it is not one to train.
    """
    if not path.exists():
        fix = "Give the path of a diffusers folder: one that holds model_index.json."
        raise _model_error(path, [Problem(None, "there is no such folder.", fix)])
    if not (path / "model_index.json").is_file():
        raise _model_error(path, [_no_index(path)])
    problems = [*_refused_kind(path), *_missing(path)]
    if problems:
        raise _model_error(path, problems)
    small_files = {name: (path / name).read_bytes() for name in _small_names(path)}
    problems = _broken_json(small_files)
    if problems:
        raise _model_error(path, problems)
    small_files[INDEX] = _index_of_kept_parts(small_files[INDEX])
    weights = {part: file for part in PARTS if (file := _weights_file(path, part))}
    family = _family(json.loads(small_files["unet/config.json"]), path)
    return ModelFolder(path, family, small_files, weights, {part: _dtype(file) for part, file in weights.items()})


def _index_of_kept_parts(index: bytes) -> bytes:
    """The index of a model without what a checkpoint does not hold, such as a safety checker: it would not load."""
    values = json.loads(index)
    for name, value in values.items():
        if isinstance(value, list) and name not in KEPT_PARTS:
            values[name] = [None, None]
    if "requires_safety_checker" in values:
        values["requires_safety_checker"] = False
    return (json.dumps(values, indent=2) + "\n").encode()


def _no_index(path: Path) -> Problem:
    if path.is_file():
        return Problem(None, "this is a file.", "Give a diffusers folder: one that holds model_index.json.")
    inside = sorted(p.parent.name for p in path.glob("*/model_index.json"))[:3]
    fix = f"Did you mean {' or '.join(inside)} inside it?" if inside else "It needs model_index.json, unet, vae, ..."
    return Problem(None, "this folder holds no diffusers model.", fix)


def _refused_kind(path: Path) -> list[Problem]:
    name = (_json(path / "model_index.json") or {}).get("_class_name", "")
    channels = (_json(path / "unet" / "config.json") or {}).get("in_channels", 4)
    if (name and not str(name).startswith("StableDiffusion")) or "XL" in str(name):
        fix = "Choose an SD 1.x or SD 2.x model."
        return [Problem("model_index.json", f"this is a {name}, which cannot be trained here.", fix)]
    if channels != 4:
        kind = {9: "an inpainting model", 8: "an InstructPix2Pix model"}.get(
            channels, f"a model of {channels} channels"
        )
        return [
            Problem("unet/config.json", f"this is {kind}, which cannot be trained here.", "Choose the plain model.")
        ]
    return []


def _missing(path: Path) -> list[Problem]:
    fix = "Get the whole folder again."
    names = [n for n in (*SMALL_FILES, TEXT_ENCODER_CONFIG) if not (path / n).is_file()]
    has_vocabulary = any((path / "tokenizer" / n).is_file() for n in ("tokenizer.json", "vocab.json"))
    names += [] if has_vocabulary else ["tokenizer/vocab.json"]
    problems = [Problem(name, "the file is missing.", fix) for name in names]
    for part, (_, stem) in PARTS.items():
        if _weights_file(path, part) is None:
            pickled = next((path / part).glob("*.bin"), None) if (path / part).is_dir() else None
            what = (
                f"only {pickled.name} is there, a format that can run code." if pickled else "the weights are missing."
            )
            problems.append(Problem(f"{part}/{stem}.safetensors", what, "Get the safetensors files of this model."))
    return problems


def _broken_json(small_files: Mapping[str, bytes]) -> list[Problem]:
    problems = []
    for name, content in small_files.items():
        if name.endswith(".json"):
            try:
                json.loads(content)
            except (ValueError, RecursionError) as error:
                problems.append(Problem(name, f"this is no proper JSON ({error}).", "Get this file again."))
    return problems


def _small_names(path: Path) -> Iterable[str]:
    tokenizer = [f"tokenizer/{name}" for name in TOKENIZER_FILES if (path / "tokenizer" / name).is_file()]
    names = (*SMALL_FILES, TEXT_ENCODER_CONFIG, *tokenizer)
    return [name for name in names if (path / name).stat().st_size <= MAX_SMALL_BYTES]


def _weights_file(path: Path, part: str) -> Path | None:
    stem = PARTS[part][1]
    candidates = (path / part / f"{stem}{variant}.safetensors" for variant in ("", ".fp32", ".fp16"))
    return next((file for file in candidates if file.is_file()), None)


def _family(unet_config: Mapping[str, Any], path: Path) -> str:
    """SD2 differs in shape by its linear projections around attention."""
    return "sd2" if unet_config.get("use_linear_projection") else "sd1"


def _dtype(file: Path) -> torch.dtype:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            return _DTYPES[tensors.get_slice(names[0]).get_dtype()]
    except (SafetensorError, OSError, KeyError, IndexError) as error:
        what = f"the file is damaged or of another format ({_first_line(error)})."
        raise _model_error(
            file.parent.parent, [Problem(f"{file.parent.name}/{file.name}", what, "Get it again.")]
        ) from None


def _json(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _model_error(path: Path, problems: list[Problem]) -> ModelError:
    return ModelError(f"The base model {path} cannot be used:", problems)
