"""What a single file says that its UNet predicts, by its header and the .yaml beside it. Needs no torch."""

from pathlib import Path

import yaml

from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FamilyFacts
from ed2.models.files.header import Header

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
