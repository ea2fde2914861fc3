"""A VAE in place of a base model's, which may have none."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ed2.errors import ModelError, Problem, printable
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS, VAE
from ed2.models.files.folder import build_network, first_line, stored_dtype, weights_problem
from ed2.models.files.layout import vae_tensors
from ed2.models.files.vae_files import VaeFiles, find_vae

GET_AGAIN = "Get this VAE again, or choose another one."


@dataclass(frozen=True)
class Vae:
    """A VAE that can be read.

    Attributes:
        config: its configuration, as a diffusers folder holds it.
    """

    files: VaeFiles
    family: str
    config: bytes

    @property
    def dtype(self) -> torch.dtype:
        """How its weights are stored."""
        return stored_dtype(self.files.header, self.files.prefix)

    def read(self) -> nn.Module:
        """Read it in fp32.

        Raises:
            ModelError: its weights do not fit its configuration.
        """
        try:
            with torch.device("meta"):
                module = build_network(FACTS[self.family].part(VAE), json.loads(self.config))
            given = vae_tensors(self._tensors())
            wanted = module.state_dict()
        except (ModelError, SafetensorError, OSError):
            raise
        except Exception as error:  # a wrong config can fail in many ways
            raise vae_error(self.files.path, Problem(None, f"{first_line(error)}.", GET_AGAIN)) from error
        for name, tensor in wanted.items():
            if name not in given:
                raise vae_error(self.files.path, Problem(None, f"{name} is missing.", GET_AGAIN))
            if given[name].shape != tensor.shape:
                raise vae_error(self.files.path, Problem(None, f"{name} is of another size.", GET_AGAIN))
        module.load_state_dict({name: given[name] for name in wanted}, strict=True, assign=True)
        module = module.float()
        if problem := weights_problem(module.state_dict()):
            raise vae_error(self.files.path, Problem(None, f"{problem}.", GET_AGAIN))
        return module

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for path in self.files.weights.files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.startswith(self.files.prefix):
                        tensors[name.removeprefix(self.files.prefix)] = file.get_tensor(name).clone()
        return tensors


class WithVae:
    """A base model whose VAE is another one's."""

    def __init__(self, base: ModelSource, vae: Vae) -> None:
        self._read, self._vae = base.read, vae
        self.path, self.family = base.path, base.family
        self.small_files = {**base.small_files, FACTS[base.family].part(VAE).config: vae.config}
        self.dtypes = {**base.dtypes, VAE: vae.dtype}
        self.tokenizer, self.extra = base.tokenizer, base.extra

    def config(self, name: str) -> dict[str, Any]:
        """The content of one of the small JSON files."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Read one part, a VAE always in fp32. Raises ModelError."""
        return self._vae.read() if part == VAE else self._read(part, dtype)


def open_vae(path: Path, family: str, config: bytes) -> Vae:
    """Open a VAE without reading its weights.

    Args:
        path: a file or folder.
        family: of the model that gets it.
        config: the configuration of a VAE that has none of its own.

    Raises:
        ModelError: it cannot be used.
    """
    try:
        files = find_vae(path, FACTS[family])
    except ModelError as error:
        raise vae_error(path, *error.problems) from None
    return Vae(files, family, files.config or config)


def vae_error(path: Path, *problems: Problem) -> ModelError:
    """The error of a VAE with these problems."""
    return ModelError(f"The VAE {printable(str(path), 1000)} cannot be used:", problems)
