"""What a single file says of itself: what its UNet predicts, with which noise, and what is shown of the model.

Programs look in different places, so all of them say it: empty tensors (ComfyUI, Forge, training programs), the
metadata of a `.safetensors`, and the `.yaml` beside it (the original web UIs). Needs no torch before it makes tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ed2.disk import write_if_free
from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.files.header import Header

if TYPE_CHECKING:
    from torch import Tensor

PREDICTION_KEY = "prediction_type"
"""Metadata key for what the model predicts."""
V_TENSOR = "v_pred"
"""An empty tensor of this name says that the model predicts v."""
ZERO_SNR_TENSOR = "ztsnr"
"""An empty tensor of this name says that the model was trained with zero terminal SNR."""
ZERO_SNR_KEY = "zero_terminal_snr"
MAX_YAML_BYTES = 64 << 10
_BY_SCALING = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
"""What a model predicts, by the class in the .yaml of an SDXL file. Source: Stability-AI/generative-models, configs."""
_PREDICTION_KEYS = (PREDICTION_KEY, "modelspec.prediction_type", "modelspec.predict_key")
CONFIGS = Path(__file__).parent / "configs"
"""The configs, tokenizer and .yaml files that are shipped with the program, by family."""
ZERO_SNR_CHANGES = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""What a diffusers scheduler needs for zero terminal SNR."""
_PARAMETERIZATIONS = {"epsilon": "", "v_prediction": '    parameterization: "v"\n'}
SPEC_VERSION = "1.0.1"
SPEC_PREFIX = "modelspec."
HASH_KEY = f"{SPEC_PREFIX}hash_sha256"
"""Metadata key for the hash of the bytes of all tensors; whoever writes the file fills in its value."""
NO_HASH = f"0x{'0' * 64}"
"""As long as any hash: it stands in a header until the hash is known."""
_SPEC_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""What a model predicts in the words of this spec, by diffusers'."""
_OF_THE_FILE = ("sai_model_spec", "architecture", "implementation", "prediction_type", "predict_key")
"""Entries that depend on what is written; all others describe the model, however it is stored."""


@dataclass(frozen=True)
class Description:
    """What a model predicts, in diffusers' words, and whether its noise has zero terminal SNR."""

    prediction_type: str
    is_zero_snr: bool = False

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> Description:
        """The description of a diffusers folder, from its scheduler's configuration. Raises ValueError."""
        from ed2.models.process import DiffusionProcess

        process = DiffusionProcess.from_config(config)
        return cls(process.prediction_type, process.is_zero_snr)

    def tensors(self) -> dict[str, Tensor]:
        """The empty tensors of the file."""
        import torch

        marks = {V_TENSOR: self.prediction_type == "v_prediction", ZERO_SNR_TENSOR: self.is_zero_snr}
        return {name: torch.empty(0) for name, is_set in marks.items() if is_set}

    def metadata(self) -> dict[str, str]:
        """The metadata of the file, besides that of `ModelSpec`."""
        if not self.is_zero_snr:
            return {PREDICTION_KEY: self.prediction_type}
        return {PREDICTION_KEY: self.prediction_type, ZERO_SNR_KEY: "true"}

    def yaml_text(self, family: str) -> str:
        """The text of the .yaml that web UIs need beside a file of `family`; empty if they need none."""
        file = CONFIGS / f"{family}.yaml"
        if self.prediction_type == FACTS[family].prediction_type or not file.is_file():
            return ""  # it is what everyone takes for granted
        text = file.read_text(encoding="utf-8")
        return text.replace(_PARAMETERIZATIONS["v_prediction"], _PARAMETERIZATIONS[self.prediction_type])

    def add_yaml(self, single_file: Path, family: str) -> bool:
        """Put the .yaml beside a file of `family` if it needs one; a .yaml that is there stays as it is.

        Returns:
            False if that one says something else, so that it belongs to another model.

        Raises:
            OSError: it cannot be written.
        """
        text = self.yaml_text(family)
        if text and write_if_free(single_file.with_suffix(".yaml"), text.encode()):
            return True
        return not self.is_contradicted(single_file)

    def is_contradicted(self, single_file: Path) -> bool:
        """Whether there is a .yaml beside `single_file` that says something else. Raises OSError."""
        beside = single_file.with_suffix(".yaml")
        try:
            return beside.exists() and prediction_in_yaml(beside) != self.prediction_type
        except ValueError:
            return True


def without_marks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without those that only describe it."""
    return {name: tensor for name, tensor in tensors.items() if name not in (V_TENSOR, ZERO_SNR_TENSOR)}


def is_shipped_yaml(file: Path) -> bool:
    """Whether a .yaml is word for word one that this program writes. Raises OSError."""
    content = file.read_bytes()
    for kind, family in product(_PARAMETERIZATIONS, FACTS):
        text = Description(kind).yaml_text(family)
        if text and content == text.encode():
            return True
    return False


def find_prediction(path: Path, family: FamilyFacts, header: Header) -> str:
    """What a single file predicts, in diffusers' words: by its header, by the .yaml beside it, or by its family.

    Raises:
        ModelError: none of them says it.
    """
    if predicted := stated_prediction(path, header) or family.prediction_type:
        return predicted
    what = f"this {family.title} file does not say what it predicts."
    fix = "Set --prediction_type to v_prediction (768 models) or epsilon (512 base), or put its .yaml beside it."
    raise ModelError(str(path), [Problem(PREDICTION_KEY, what, fix)])


def stated_prediction(path: Path, header: Header) -> str | None:
    """What a single file predicts, by its header or the .yaml beside it; None if neither says it.

    Raises:
        ModelError: the .yaml does not describe a model that can be trained.
    """
    said, beside = said_prediction(header), path.with_suffix(".yaml")
    if said or not beside.is_file():
        return said
    return _prediction_beside(path, beside)


def _prediction_beside(path: Path, file: Path) -> str:
    try:
        return prediction_in_yaml(file)
    except (OSError, ValueError):
        what = f"{printable(file.name)} beside it does not describe a model that can be trained here."
        fix = "Get it again, or remove it and set --prediction_type."
        raise ModelError(str(path), [Problem(None, what, fix)]) from None


def prediction_in_yaml(file: Path) -> str:
    """What a .yaml for web UIs says that a model predicts, in diffusers' words.

    Raises:
        ValueError: it does not describe a Stable Diffusion model, or one trained with another kind of noise.
        OSError: it cannot be read.
    """
    if file.stat().st_size > MAX_YAML_BYTES:
        raise ValueError("it is too large")
    try:
        parameters = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"]
        if "denoiser_config" in parameters:
            scaling = parameters["denoiser_config"]["params"]["scaling_config"]["target"]
            return _BY_SCALING[scaling.rpartition(".")[2]]
        if parameters.get("parameterization") == "v":
            return "v_prediction"
        return "epsilon"
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it describes no model") from error


def said_prediction(header: Header) -> str | None:
    """What a file says that it predicts, by its tensors and metadata, in diffusers' words; None where it does not."""
    said = next(filter(None, (header.metadata.get(key) for key in _PREDICTION_KEYS)), "")
    is_velocity = V_TENSOR in header.shapes or header.metadata.get("ss_v_parameterization") == "True"
    if is_velocity or said in ("v", "v_prediction"):
        return "v_prediction"
    if said in ("epsilon", "eps"):
        return "epsilon"
    return None


def assumed_prediction(path: Path, family: FamilyFacts, header: Header) -> str:
    """A sentence on a single file that may predict v and does not say what it predicts; empty for others."""
    if not family.has_unmarked_v or said_prediction(header) or path.with_suffix(".yaml").is_file():
        return ""
    return (
        f"{printable(path.name)} does not say what it predicts, so {family.prediction_type} is assumed: if it predicts "
        "velocity, set --prediction_type v_prediction."
    )


def says_zero_snr(header: Header) -> bool:
    """Whether a file says that it was trained with zero terminal SNR."""
    keys = (ZERO_SNR_KEY, "ss_zero_terminal_snr", "modelspec.zero_terminal_snr")
    return ZERO_SNR_TENSOR in header.shapes or any(header.metadata.get(key, "").lower() == "true" for key in keys)


@dataclass(frozen=True)
class ModelSpec:
    """What a single file says of its model by the SAI Model Spec, which web UIs and model managers show and search.

    Entries that are empty are left out. Source: https://github.com/Stability-AI/ModelSpec

    Attributes:
        title: for people.
        resolution: of its training images, such as `512x512`.
        date: when it was made, ISO 8601.
        trigger_phrase: what a prompt needs to begin with.
    """

    title: str
    resolution: str = ""
    date: str = ""
    trigger_phrase: str = ""
    author: str = ""
    license: str = ""

    def metadata(self, family: str, prediction_type: str) -> dict[str, str]:
        """The metadata of a file of this family; the hash is still to be filled in."""
        own = {f"{SPEC_PREFIX}{item.name}": getattr(self, item.name) for item in fields(self)}
        return {**written_metadata(family, prediction_type), **{name: text for name, text in own.items() if text}}


def written_metadata(family: str, prediction_type: str) -> dict[str, str]:
    """The entries that depend on what is written: version, architecture, layout, prediction, and room for the hash."""
    facts = FACTS[family]
    values = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": facts.architecture_of(prediction_type),
        "implementation": facts.implementation,
        "prediction_type": _SPEC_PREDICTIONS.get(prediction_type, ""),
    }
    return {HASH_KEY: NO_HASH} | {f"{SPEC_PREFIX}{name}": text for name, text in values.items() if text}


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of a file says of its model, for another file of that model."""
    of_the_file = {HASH_KEY, *(f"{SPEC_PREFIX}{name}" for name in _OF_THE_FILE)}
    return {name: text for name, text in metadata.items() if name.startswith(SPEC_PREFIX) and name not in of_the_file}
