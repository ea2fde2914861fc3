"""A diffusers folder on the disk: what it contains, and how its parts are read.

Nothing in such a folder runs: weights are read from safetensors only, and the table of families decides which class a
part becomes, never the folder.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ed2.errors import ModelError, Problem, first_line, printable
from ed2.models.families.facts import FACTS, VAE, FamilyFacts, PartFacts
from ed2.models.files.folder_problems import (
    EXTRA_FILE,
    INDEX,
    SCHEDULER_CONFIG,
    WHOLE_FOLDER,
    family_in,
    folder_problems,
    network_config,
    small_names,
)
from ed2.models.files.header import Header
from ed2.models.files.tokens import CONTEXT_LENGTH
from ed2.models.files.weight_files import WeightFiles, find_weights

TOKENIZER_CLASS = ["transformers", "CLIPTokenizer"]
DEFAULT_SCHEDULER = ["diffusers", "DDIMScheduler"]
MAX_CONFIG_WEIGHTS = 4
"""The most weights that a config may call for, as a multiple of those in the file."""
MAX_ZERO_SHARE = 0.05
"""Share of a part's matrices. A trained network has no all-zero matrices; some merges leave a few."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float16,
    "F8_E5M2": torch.float16,
}
"""The types in which networks are kept, by those in a file; nothing computes in 8 bits, and fp16 holds them all."""


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder of a family that can be trained, complete and ready to be read.

    Attributes:
        small_files: every file except the weights, by its path in the folder; a checkpoint contains the same.
        weights: the files of each part.
        dtypes: how each part's weights are stored.
    """

    path: Path
    family: str
    small_files: Mapping[str, bytes]
    weights: Mapping[str, WeightFiles]
    dtypes: Mapping[str, torch.dtype]

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Read one part.

        Raises:
            ModelError: the weights do not fit the configuration.
        """
        facts = FACTS[self.family].part(part)
        problem = self.config_problem(part)
        if problem:
            raise model_error(self.path, Problem(facts.config, problem, WHOLE_FOLDER))
        module, lost = self._loaded(facts, dtype)
        if lost:
            what = f"missing, or of another shape than its config.json says: {example_of(lost)}."
            raise model_error(self.path, Problem(part, what, WHOLE_FOLDER))
        problem = weights_problem(module.state_dict())
        if problem:
            raise model_error(self.path, Problem(part, f"{problem}.", WHOLE_FOLDER))
        return module

    def tokenizer(self, name: str) -> CLIPTokenizer:
        """One of the folder's tokenizers, by the name of its own folder.

        Raises:
            ModelError: it is damaged, or belongs to another model than the text encoder.
        """
        encoders = {encoder.tokenizer: encoder for encoder in FACTS[self.family].text_encoders}
        config = self.config(encoders[name].config)
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.path / name, local_files_only=True)
            tokenizer(["a cat"], padding="max_length", truncation=True, max_length=CONTEXT_LENGTH)
        except Exception as error:  # of many types, some of them from the Rust library
            what = f"it cannot be used ({first_line(error)})."
            raise model_error(self.path, Problem(name, what, WHOLE_FOLDER)) from error
        known = config.get("vocab_size", len(tokenizer))
        if len(tokenizer) > known:
            what = f"it has {len(tokenizer):,} tokens, but the text encoder knows {known:,}: different models."
            raise model_error(self.path, Problem(name, what, WHOLE_FOLDER))
        tokenizer.model_max_length = min(config.get("max_position_embeddings", CONTEXT_LENGTH), CONTEXT_LENGTH)
        return tokenizer

    def config_problem(self, part: str) -> str:
        """Why a part cannot be built from its config, or would need far more memory than its file; empty if it can."""
        facts = FACTS[self.family].part(part)
        try:
            with torch.device("meta"):
                module = build_network(facts, self.config(facts.config))
        except Exception as error:  # a wrong config can fail in many ways
            return f"no network can be built from it ({first_line(error)})."
        asked, held = sum(tensor.numel() for tensor in module.parameters()), self.weights[part].header().num_weights
        if asked > MAX_CONFIG_WEIGHTS * held:
            return f"it asks for {asked:,} weights, but the file has {held:,}: they do not belong together."
        return ""

    def _loaded(self, part: PartFacts, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
        """The network of a part, and the names of tensors that are missing."""
        kind, is_transformer = part_class(part), part.library == "transformers"
        variant = self.weights[part.name].variant.strip(".") or None
        dtype_name = "dtype" if is_transformer else "torch_dtype"  # transformers renamed it, diffusers did not
        options = {dtype_name: dtype, "variant": variant, "use_safetensors": True, "local_files_only": True}
        if is_transformer:
            options["ignore_mismatched_sizes"] = True  # so that it names them
            if b'"text_config' in (self.path / part.config).read_bytes():  # a whole CLIP; not all kinds are unwrapped
                options["config"] = kind.config_class(**self.config(part.config))
        try:
            module, found = kind.from_pretrained(self.path / part.name, output_loading_info=True, **options)
        except Exception as error:  # of many types: the libraries notice a mismatch deep inside
            what = f"its weights and its config.json do not belong together ({first_line(error)})."
            raise model_error(self.path, Problem(part.name, what, WHOLE_FOLDER)) from error
        return module, sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))

    def extra(self) -> dict[str, Tensor]:
        """Tensors of the single file that this model came from which have no place in a diffusers folder."""
        file = self.path / EXTRA_FILE
        if not file.is_file():
            return {}
        return dict(load_file(file))


def with_scheduler(small_files: Mapping[str, bytes], changes: Mapping[str, Any]) -> dict[str, bytes]:
    """The small files with the scheduler's configuration changed."""
    config = {**json.loads(small_files[SCHEDULER_CONFIG]), **changes}
    return {**small_files, SCHEDULER_CONFIG: (json.dumps(config, indent=2) + "\n").encode()}


def open_folder(path: Path, *, prediction_type: str | None = None, has_vae: bool = False) -> ModelFolder:
    """Open a diffusers folder without reading its weights.

    Args:
        path: the folder.
        prediction_type: what the model predicts, in place of what its scheduler says.
        has_vae: whether a VAE comes from elsewhere, so that this folder needs none.

    Raises:
        ModelError: lists all that is missing, or says which kind of model this is if it cannot be trained.
    """
    problems = folder_problems(path, prediction_type=prediction_type, has_vae=has_vae)
    if problems:
        raise model_error(path, *problems)
    family = family_in(path)
    parts = [part for part in family.parts if not (has_vae and part.name == VAE)]
    small_files = {name: (path / name).read_bytes() for name in small_names(path, family)}
    small_files[INDEX] = _own_index(small_files[INDEX], family)
    for encoder in family.text_encoders:
        values = json.loads(small_files[encoder.config])
        config = network_config(encoder, values)
        if config is not values:
            small_files[encoder.config] = (json.dumps(config, indent=2) + "\n").encode()
    weights: dict[str, WeightFiles] = {}
    for part in parts:
        if found := find_weights(path, part):
            weights[part.name] = found
    dtypes = {part: stored_dtype(found.header()) for part, found in weights.items()}
    return ModelFolder(path, family.name, small_files, weights, dtypes)


def part_class(part: PartFacts) -> Any:
    """The class that the weights of a part are loaded into."""
    return getattr(import_module(part.library), part.class_name)


def build_network(part: PartFacts, config: Mapping[str, Any]) -> nn.Module:
    """The network of a part from its config.json, with initial weights."""
    kind = part_class(part)
    return kind(kind.config_class(**config)) if part.library == "transformers" else kind.from_config(config)


def weights_problem(tensors: Mapping[str, Tensor]) -> str:
    """Why weights cannot be those of a trained network, without the full stop; empty if they can."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    # A sum costs one pass; look more closely only if it is not finite, or zero.
    sums = {name: float(tensor.sum(dtype=torch.float32)) for name, tensor in floating.items()}
    broken, zero, num_matrices = [], [], 0
    for name, tensor in floating.items():
        if not math.isfinite(sums[name]) and not bool(torch.isfinite(tensor).all()):
            broken.append(name)
        if tensor.ndim > 1:
            num_matrices += 1
            if sums[name] == 0 and not bool(tensor.any()):
                zero.append(name)
    if broken:
        return f"there are numbers that are not finite (NaN or infinity) in {example_of(broken)}"
    if len(zero) > MAX_ZERO_SHARE * num_matrices:
        return f"there are only zeros in {example_of(zero)}"
    return ""


def example_of(names: Sequence[str]) -> str:
    """How many tensors, with the first as an example."""
    return f"{len(names)} of its tensors, such as {names[0]}" if len(names) > 1 else f"its tensor {names[0]}"


def stored_dtype(header: Header, prefix: str = "") -> torch.dtype:
    """The type that holds all floating-point tensors whose names begin with `prefix`; fp32 if there are none."""
    kinds = {dtype for name, dtype in header.dtypes.items() if name.startswith(prefix)}
    floating = [DTYPES[kind] for kind in sorted(kinds & DTYPES.keys())]
    return reduce(torch.promote_types, floating) if floating else torch.float32


def _own_index(index: bytes, family: FamilyFacts) -> bytes:
    """The model_index.json of our checkpoints of a model: the parts that they contain, by the classes that they are.

    A part that they do not contain, such as a safety checker, would fail to load; and no class of a stranger's index is
    passed on.
    """
    given = json.loads(index)
    values = {name: value for name, value in given.items() if name.startswith("_")}
    values["_class_name"] = family.pipeline
    scheduler = given.get("scheduler")
    is_known = isinstance(scheduler, list) and len(scheduler) == 2 and scheduler[0] == "diffusers"
    known = scheduler if is_known and re.fullmatch(r"\w+Scheduler", str(scheduler[1])) else DEFAULT_SCHEDULER
    values |= {part.name: [part.library, part.class_name] for part in family.parts}
    values |= dict.fromkeys(family.tokenizers, TOKENIZER_CLASS)
    values |= {"scheduler": known, **family.index}
    values |= {name: given[name] for name in family.kept_switches if isinstance(given.get(name), bool)}
    return (json.dumps(values, indent=2) + "\n").encode()


def model_error(path: Path, *problems: Problem) -> ModelError:
    """The error of a base model with these problems."""
    return ModelError(f"The base model {printable(str(path), 1000)} cannot be used:", problems)
