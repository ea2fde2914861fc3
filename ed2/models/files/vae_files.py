"""Finds a VAE to use in place of a base model's, in a folder or a file of any layout. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.errors import ModelError, Problem, printable, shown
from ed2.models.families.facts import FACTS, VAE, VAE_PREFIX, FamilyFacts
from ed2.models.families.kinds import described, kind_of
from ed2.models.files.folder_problems import MAX_SMALL_BYTES, config_problem
from ed2.models.files.header import Header, HeaderError, read_header
from ed2.models.files.pickled import any_header
from ed2.models.files.weight_files import WeightFiles, index_problem, joined, weights_in

CONFIG = "config.json"
PREFIXES = (VAE_PREFIX, "vae.", "")
"""What may stand before the names of a VAE's tensors."""
_LATENTS = "decoder.conv_in.weight"
_DEFAULT_SCALE = 0.18215
"""Of a config that says none. Source: diffusers, AutoencoderKL."""
CHOOSE = "Choose a VAE: a .safetensors file, or a folder with config.json."


@dataclass(frozen=True)
class VaeFiles:
    """A VAE on the disk.

    Attributes:
        header: of all its files.
        prefix: what stands before the names of its tensors.
        config: its configuration, as a folder holds it; None where it is that of its family.
    """

    path: Path
    weights: WeightFiles
    header: Header
    prefix: str
    config: bytes | None = None


def find_vae(path: Path, family: FamilyFacts, *, may_convert: bool = False) -> VaeFiles:
    """Find the VAE in a file or folder, which may be that of a whole model.

    Args:
        path: where to look.
        family: of the model that gets it.
        may_convert: whether weights in PyTorch's own format are converted first.

    Raises:
        ModelError: there is none, it is damaged, or it is of another family.
    """
    config = None
    if path.is_dir():
        folder = path if (path / CONFIG).is_file() else path / VAE
        config = _config_in(folder, family)
        weights = weights_in(folder, family.part(VAE).stem)
        if weights is None:
            raise _without_weights(path, folder, family)
    else:
        weights = WeightFiles((path,))
    header = _header_of(path, weights, may_convert=may_convert)
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}{_LATENTS}" in header.shapes), None)
    if prefix is None:
        raise _error(path, _not_a_vae(header), CHOOSE)
    channels = header.shapes[f"{prefix}{_LATENTS}"][1:2]
    if channels != (family.latent_channels,):
        what = f"its latents have {shown(channels[0] if channels else None)} channels, not {family.latent_channels}."
        raise _error(path, what, f"Choose a VAE of {family.title}.")
    return VaeFiles(path, weights, header, prefix, config)


def _without_weights(path: Path, folder: Path, family: FamilyFacts) -> ModelError:
    pickled = weights_in(folder, family.part(VAE).stem, "bin")
    if pickled is None or pickled.index:
        return _error(path, "the weights of the VAE are missing.", "Get this VAE again.")
    what = f"only {pickled.path.name} is there, in a format that can run code."
    return _error(path, what, f"Set --vae to that file, which the start of a run converts: {pickled.path}")


def _not_a_vae(header: Header) -> str:
    kind = kind_of(header.shapes)
    if kind == "unknown":
        return f"its tensors, such as {printable(min(header.shapes))}, are not those of a VAE."
    if kind in FACTS:
        return f"this is {described(kind)} without a VAE."
    return f"this is {described(kind)}, not a VAE."


def _header_of(path: Path, weights: WeightFiles, *, may_convert: bool) -> Header:
    if weights.problem:
        raise ModelError(str(path), [weights.problem])
    read = any_header if may_convert else read_header
    headers: dict[str, Header] = {}
    for file in weights.files:
        try:
            headers[file.name] = read(file)
        except HeaderError as error:
            raise _error(path, error.what, error.fix) from None
    if wrong := index_problem(weights, headers):
        raise ModelError(str(path), [wrong])
    return joined(headers.values())


def _config_in(folder: Path, family: FamilyFacts) -> bytes:
    """The config.json of a VAE's folder, checked. Raises ModelError."""
    try:
        if (folder / CONFIG).stat().st_size > MAX_SMALL_BYTES:
            raise ValueError("it is too large")
        content = (folder / CONFIG).read_bytes()
        values = json.loads(content)
    except FileNotFoundError:
        raise _error(folder, f"this folder contains no VAE: {CONFIG} is missing.", CHOOSE) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _error(folder, f"its {CONFIG} cannot be read ({printable(str(error), 100)}).", "Get it again.") from None
    why = config_problem(family.part(VAE), values) or _other_scale(values, family)
    if why:
        raise _error(folder, f"{why}.", f"Choose a VAE of {family.title}.")
    return content


def _other_scale(config: Mapping[str, Any], family: FamilyFacts) -> str:
    """Why the VAE is of another family, whose latents have another scale; empty if it may be of this one."""
    scale = config.get("scaling_factor", _DEFAULT_SCALE)
    if isinstance(scale, int | float) and abs(scale - family.latent_scale) < 1e-6:
        return ""
    return f"its latents have the scale {shown(scale)}, those of {family.title} {family.latent_scale}"


def _error(path: Path, what: str, fix: str) -> ModelError:
    return ModelError(str(path), [Problem(None, what, fix)])
