"""A single `.safetensors` file as a base model: its weights by the names of a diffusers folder, offline.

What such a file does not hold comes from `configs/`: the configurations of SD1 and SD2 and the tokenizer. It is read
part by part, strictly: every weight that the configuration asks for has to be there in its shape.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ed2.errors import ModelError, Problem
from ed2.models.files.base_faults import PREFIXES, file_faults
from ed2.models.files.folder import TEXT_ENCODER_CONFIG, model_error, stored_dtype, with_scheduler
from ed2.models.files.folder_faults import TOKENIZER_FILES
from ed2.models.files.header import read_header
from ed2.models.files.layout import diffusers_tensors
from ed2.models.files.layout_family import family_of
from ed2.models.files.layout_names import OPEN_CLIP_PREFIX
from ed2.models.files.soundness import weights_fault

CONFIGS = Path(__file__).parent / "configs"
FAMILY_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x"}
MAX_YAML_BYTES = 64 << 10
V_TENSOR = "v_pred"
"""An empty tensor of this name says that the model predicts v (a custom of ComfyUI and of some training programs)."""
POSITIONS = "text_model.embeddings.position_ids"
"""A counter that old versions of transformers saved; nothing reads it."""


@dataclass(frozen=True)
class ModelFile:
    """A single file of the SD1 or SD2 family, complete by its names.

    Attributes:
        small_files: what a diffusers folder of this model holds besides weights.
        dtypes: how each part's weights are stored.
    """

    path: Path
    family: str
    small_files: Mapping[str, bytes]
    dtypes: Mapping[str, torch.dtype]

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file of the diffusers folder."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str) -> nn.Module:
        """Read one part in fp32.

        Raises:
            ModelError: weights are missing, or of other shapes than the family's.
        """
        try:
            tensors = getattr(self._tensors(part), part)
            module = _text_encoder(self, tensors) if part == "text_encoder" else _network(self, part, tensors)
        except ModelError:
            raise
        except Exception as error:  # of many kinds: what does not fit is met deep in the libraries
            lines = [line.strip() for line in str(error).splitlines()]
            what = (
                f"its weights are not those of an {self.family.upper()} model ({' '.join(lines[1:2] or lines)[:300]})."
            )
            raise model_error(self.path, Problem(part, what, "Get this file anew, or choose another.")) from error
        module = module.float()
        fault = weights_fault(module.state_dict())
        if fault:
            raise model_error(self.path, Problem(part, f"{fault}.", "Get this file anew, or choose another."))
        return module

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the family."""
        with TemporaryDirectory() as folder:
            for name in (name for name in self.small_files if name.startswith("tokenizer/")):
                (Path(folder) / Path(name).name).write_bytes(self.small_files[name])
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def extra(self) -> dict[str, Tensor]:
        """What the text encoder of the file has beyond a diffusers folder: SD2's last layer and projection."""
        left_over = self._tensors("text_encoder").left_over
        return {name: tensor for name, tensor in left_over.items() if name.startswith(OPEN_CLIP_PREFIX)}

    def _tensors(self, part: str) -> Any:
        """The file's tensors, those of other parts than `part` without content."""
        num_layers = self.config(TEXT_ENCODER_CONFIG)["num_hidden_layers"]
        with safe_open(self.path, framework="pt") as file:
            named = {
                # Cloned: inside the file a tensor may lie at an odd address, which changes the last bits of sums.
                name: file.get_tensor(name).clone()
                if name.startswith(PREFIXES[part])
                else torch.empty(file.get_slice(name).get_shape(), device="meta")
                for name in file.keys()  # noqa: SIM118
            }
        return diffusers_tensors(named, num_text_layers=num_layers)


def open_single_file(path: Path, scheduler_changes: Mapping[str, Any]) -> ModelFile:
    """Look at a single file without reading its weights.

    Args:
        path: a `.safetensors` of the SD1 or SD2 family.
        scheduler_changes: what the user wants other than the model says; `prediction_type` settles what it predicts.

    Raises:
        ModelError: the file is damaged, of another format or kind, or does not say what it predicts.
    """
    if faults := file_faults(path):
        raise model_error(path, *faults)
    header = read_header(path)
    shapes = header.shapes
    family = family_of(shapes)
    small_files = _shipped(family)
    predicted = scheduler_changes.get("prediction_type") or _prediction_type(path, family, header.metadata, shapes)
    small_files = with_scheduler(small_files, {**scheduler_changes, "prediction_type": predicted})
    stored = {part: stored_dtype(header, prefix) for part, prefix in PREFIXES.items()}
    return ModelFile(path, family, small_files, stored)


def _shipped(family: str) -> dict[str, bytes]:
    """The configurations and the tokenizer of a family, by their paths in a diffusers folder."""
    own = CONFIGS / family
    files = {file.relative_to(own).as_posix(): file.read_bytes() for file in sorted(own.rglob("*.*")) if file.is_file()}
    common = CONFIGS / "tokenizer"
    vocabulary = {f"tokenizer/{name}": common / name for name in TOKENIZER_FILES if (common / name).is_file()}
    return {**{name: file.read_bytes() for name, file in vocabulary.items()}, **files}


def _prediction_type(path: Path, family: str, metadata: Mapping[str, str], names: Mapping[str, Any]) -> str:
    """What the model predicts: by its metadata, by a .yaml beside it; SD1 without either predicts noise.

    Raises:
        ModelError: nothing tells.
    """
    said = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type") or ""
    said = said or metadata.get("modelspec.predict_key") or ""
    if V_TENSOR in names or said in ("v", "v_prediction") or metadata.get("ss_v_parameterization") == "True":
        return "v_prediction"
    if said in ("epsilon", "eps"):
        return "epsilon"
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        return _said_by_yaml(beside)
    if family == "sd1":
        return "epsilon"
    fix = "Give --prediction_type v_prediction (768 models) or epsilon (512 base), or put its .yaml beside it."
    raise model_error(path, Problem("prediction_type", "an SD 2 file does not say what it predicts.", fix))


def _said_by_yaml(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise ValueError("it is too large")
        parameters = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"]
        return "v_prediction" if parameters.get("parameterization") == "v" else "epsilon"
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        fix = "Get it again, or remove it and give --prediction_type."
        raise model_error(file, Problem(None, "this .yaml is not one of a Stable Diffusion model.", fix)) from None


def _network(source: ModelFile, part: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A UNet or VAE by its configuration, with exactly these weights."""
    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    with torch.device("meta"):
        module: nn.Module = kind.from_config(source.config(f"{part}/config.json"))
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if misfit := _misfit(source, part, shapes, tensors):
        raise model_error(source.path, misfit)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


def _misfit(
    source: ModelFile, part: str, wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor]
) -> Problem | None:
    """What keeps these tensors from being the part, in words: another size, or some that are missing."""
    family = FAMILY_NAMES[source.family]
    if any(tensor.shape != wanted[name] for name, tensor in given.items() if name in wanted):
        what = f"it is not of the size of {family} (some models for trying things out are smaller)."
        return Problem(part, what, "Use it as a diffusers folder, which says its own size.")
    missing = sorted(wanted.keys() - given.keys())
    if missing:
        what = f"{len(missing)} of its {len(wanted)} tensors are missing, such as {missing[0]}."
        return Problem(part, what, "Get this file anew, or choose another.")
    return None


def _text_encoder(source: ModelFile, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The text encoder with exactly these weights; transformers translates their names to those of its version.

    Raises:
        ValueError: weights are missing, too many, or of other shapes.
    """
    config = CLIPTextConfig(**source.config(TEXT_ENCODER_CONFIG))
    state = {name: tensor for name, tensor in tensors.items() if name != POSITIONS}
    load = partial(CLIPTextModel.from_pretrained, None, config=config, state_dict=state, output_loading_info=True)
    module, info = load(dtype=torch.float32)
    wrong = {kind: sorted(map(str, info.get(kind) or ())) for kind in ("missing_keys", "unexpected_keys")}
    if any(wrong.values()):
        raise ValueError(", ".join(f"{kind.replace('_', ' ')}: {names[0]}" for kind, names in wrong.items() if names))
    text_encoder: nn.Module = module
    return text_encoder
