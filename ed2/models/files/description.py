"""What a single file says of itself: whether its UNet predicts noise or v, and whether the last timestep is pure noise.

Programs look in different places, so it is said in all of them: empty tensors (ComfyUI, Forge, training programs), the
metadata of a `.safetensors`, and the `.yaml` beside it (the original web UIs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ed2.disk import write_if_free
from ed2.errors import ModelError, Problem
from ed2.models.families.facts import FACTS
from ed2.models.files.prediction import (
    PREDICTION_KEY,
    V_TENSOR,
    ZERO_SNR_KEY,
    ZERO_SNR_TENSOR,
    prediction_in_yaml,
)
from ed2.models.process import Discrete

CONFIGS = Path(__file__).parent / "configs"
"""The configs, tokenizer and .yaml files that are shipped with the program, by family."""
ZERO_SNR_CHANGES = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""What a diffusers scheduler needs for zero terminal SNR."""
_PARAMETERIZATIONS = {"epsilon": "", "v_prediction": '    parameterization: "v"\n'}


@dataclass(frozen=True)
class Description:
    """What a model predicts, in diffusers' words, and whether its noise has zero terminal SNR."""

    prediction_type: str
    is_zero_snr: bool = False

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> "Description":
        """The description of a diffusers folder, from its scheduler's configuration. Raises ValueError."""
        process = Discrete.from_config(config)
        return cls(process.prediction_type, process.is_zero_snr)

    def tensors(self) -> dict[str, Tensor]:
        """The empty tensors of the file."""
        marks = {V_TENSOR: self.prediction_type == "v_prediction", ZERO_SNR_TENSOR: self.is_zero_snr}
        return {name: torch.empty(0) for name, is_set in marks.items() if is_set}

    def metadata(self) -> dict[str, str]:
        """The metadata of the file, besides that of `ModelSpec`."""
        if not self.is_zero_snr:
            return {PREDICTION_KEY: self.prediction_type}
        return {PREDICTION_KEY: self.prediction_type, ZERO_SNR_KEY: "true"}

    def yaml_text(self, family: str) -> str:
        """The text of the .yaml that web UIs need beside a file of `family`; empty if they need none.

        Raises:
            ModelError: web UIs know no such prediction.
        """
        if self.prediction_type not in _PARAMETERIZATIONS:
            known = " or ".join(_PARAMETERIZATIONS)
            problem = Problem(PREDICTION_KEY, f"It is {self.prediction_type!r}.", f"It must be {known}.")
            raise ModelError("Cannot describe this model to web UIs.", [problem])
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
            OSError, ModelError: it cannot be written, or web UIs know no such prediction.
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
