"""A diffusers folder on the disk: what is in it, whether it can be trained, and how its parts are read.

Nothing in such a folder runs: weights are read from safetensors only, and which class a part becomes is decided here,
never by the folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ed2.errors import ModelError, Problem, printable
from ed2.models.files.folder_faults import (
    INDEX,
    SCHEDULER_CONFIG,
    STEMS,
    WHOLE_FOLDER,
    folder_faults,
    small_names,
    weights_file,
)
from ed2.models.files.header import Header, read_header
from ed2.models.files.soundness import counted, weights_fault

PARTS: Mapping[str, tuple[type[Any], str]] = {
    "unet": (UNet2DConditionModel, STEMS["unet"]),
    "vae": (AutoencoderKL, STEMS["vae"]),
    "text_encoder": (CLIPTextModel, STEMS["text_encoder"]),
}
"""The parts that hold weights: class, and the stem of the file."""

TEXT_ENCODER_CONFIG = "text_encoder/config.json"
EXTRA_FILE = "single_file_extra.safetensors"
"""Lies in our checkpoints of models that came from a single file; other programs pass it over."""
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
"""What a checkpoint's model_index.json says of its parts, whatever the base model's said."""
DEFAULT_SCHEDULER = ["diffusers", "DDIMScheduler"]
MAX_TOKENS = 77
"""Of a caption, with the marks of its begin and end."""
MOST_WEIGHTS_ASKED = 4
"""Times the weights that a file holds: more than that its configuration cannot ask for."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
        fault = self._size_fault(part)
        if fault:
            raise model_error(self.path, Problem(f"{part}/config.json", fault, WHOLE_FOLDER))
        module, lost = self._loaded(part)
        if lost:
            what = f"missing, or of another shape than its config.json says: {counted(lost)}."
            raise model_error(self.path, Problem(part, what, WHOLE_FOLDER))
        fault = weights_fault(module.state_dict())
        if fault:
            raise model_error(self.path, Problem(part, f"{fault}.", WHOLE_FOLDER))
        return module

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the folder.

        Raises:
            ModelError: it is damaged, or of another model than the text encoder.
        """
        config = self.config(TEXT_ENCODER_CONFIG)
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.path / "tokenizer", local_files_only=True)
            tokenizer(["a cat"], padding="max_length", truncation=True, max_length=MAX_TOKENS)
        except Exception as error:  # of many kinds, some of them the library's own in Rust
            what = f"it cannot be used ({first_line(error)})."
            raise model_error(self.path, Problem("tokenizer", what, WHOLE_FOLDER)) from error
        known = config.get("vocab_size", len(tokenizer))
        if len(tokenizer) > known:
            what = f"it has {len(tokenizer):,} tokens, and the text encoder knows {known:,}: they are of two models."
            raise model_error(self.path, Problem("tokenizer", what, WHOLE_FOLDER))
        tokenizer.model_max_length = min(config.get("max_position_embeddings", MAX_TOKENS), MAX_TOKENS)
        return tokenizer

    def _size_fault(self, part: str) -> str:
        """Say why a part cannot be made on no memory, or would need far more than its file holds."""
        kind, config = PARTS[part][0], self.config(f"{part}/config.json")
        try:
            with torch.device("meta"):
                module = CLIPTextModel(CLIPTextConfig(**config)) if part == "text_encoder" else kind.from_config(config)
        except Exception as error:  # a wrong configuration fails in as many ways as it has settings
            return f"no network can be made from it ({first_line(error)})."
        asked, held = sum(tensor.numel() for tensor in module.parameters()), read_header(self.weights[part]).num_weights
        if asked > MOST_WEIGHTS_ASKED * held:
            return f"it asks for {asked:,} weights, and the file holds {held:,}: they do not belong together."
        return ""

    def _loaded(self, part: str) -> tuple[nn.Module, list[str]]:
        """The network of a part, and the names of tensors that it lacks."""
        kind, stem = PARTS[part]
        variant = self.weights[part].name.removeprefix(f"{stem}.").removesuffix("safetensors").strip(".") or None
        dtype_name = "dtype" if kind is CLIPTextModel else "torch_dtype"  # transformers renamed it, diffusers did not
        options = {dtype_name: torch.float32, "variant": variant, "use_safetensors": True, "local_files_only": True}
        options |= {"ignore_mismatched_sizes": True} if kind is CLIPTextModel else {}  # so that it names them
        try:
            module, found = kind.from_pretrained(self.path / part, output_loading_info=True, **options)
        except Exception as error:  # of many kinds: what does not fit is met deep in the libraries
            what = f"its weights and its config.json do not belong together ({first_line(error)})."
            raise model_error(self.path, Problem(part, what, WHOLE_FOLDER)) from error
        return module, sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))

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
    problems = folder_faults(path)
    if problems:
        raise model_error(path, *problems)
    small_files = {name: (path / name).read_bytes() for name in small_names(path)}
    small_files[INDEX] = _own_index(small_files[INDEX])
    weights = {part: file for part in PARTS if (file := weights_file(path, part))}
    dtypes = {part: stored_dtype(read_header(file)) for part, file in weights.items()}
    return ModelFolder(path, _family(json.loads(small_files["unet/config.json"])), small_files, weights, dtypes)


def stored_dtype(header: Header, prefix: str = "") -> torch.dtype:
    """How the tensors whose names begin with `prefix` are stored; fp32 where that is none that networks compute in."""
    first = next((dtype for name, dtype in header.dtypes.items() if name.startswith(prefix)), "")
    return DTYPES.get(first, torch.float32)


def _own_index(index: bytes) -> bytes:
    """The index of our checkpoints of a model: the parts that they hold, by the classes that they are.

    What they do not hold, such as a safety checker, would not load; and no class of a stranger's index is passed on.
    """
    values = {name: value for name, value in json.loads(index).items() if name.startswith("_")}
    values["_class_name"] = "StableDiffusionPipeline"
    scheduler = json.loads(index).get("scheduler")
    is_known = isinstance(scheduler, list) and len(scheduler) == 2 and scheduler[0] == "diffusers"
    known = scheduler if is_known and re.fullmatch(r"\w+Scheduler", str(scheduler[1])) else DEFAULT_SCHEDULER
    values |= {**CLASSES, "scheduler": known, "safety_checker": [None, None], "feature_extractor": [None, None]}
    values |= {"image_encoder": [None, None], "requires_safety_checker": False}
    return (json.dumps(values, indent=2) + "\n").encode()


def _family(unet_config: Mapping[str, Any]) -> str:
    """SD2 differs in shape by its linear projections around attention."""
    return "sd2" if unet_config.get("use_linear_projection") else "sd1"


def first_line(error: BaseException) -> str:
    """The beginning of an error's text, for a sentence."""
    line = (str(error).splitlines() or [type(error).__name__])[0].partition(" If you want")[0]
    return printable(" ".join(line.split()).rstrip("."), 200)


def model_error(path: Path, *problems: Problem) -> ModelError:
    """The error that tells what is wrong with a base model."""
    return ModelError(f"The base model {printable(str(path), 1000)} cannot be used:", problems)
