"""The way between a diffusers folder's weights and the classic single file.

`single_file_tensors` gives what webuis read, `diffusers_tensors` the way back. What a file is can be asked of
`family_of`; SD2 files need the text of `sd2_yaml` beside them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.errors import ModelError, Problem
from ed2.models.files.layout_family import family_of
from ed2.models.files.layout_names import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    UNetShape,
    modern_vae_name,
    open_clip_modules,
    renamed,
    turned_round,
    unet_modules,
    vae_modules,
)
from ed2.models.files.sd2_yaml import sd2_yaml
from ed2.models.files.writing import write_single_file

__all__ = [
    "DiffusersTensors",
    "UNetShape",
    "diffusers_tensors",
    "family_of",
    "sd2_yaml",
    "single_file_tensors",
    "write_single_file",
]

Tensors = Mapping[str, Tensor]

_SD2_TEXT_LAYERS = 23
"""SD2 uses the output of the last layer but one; its files hold 24 layers, its diffusers folders 23."""
_TEXT_MODEL = "text_model."
_TEXT_NAMES = ("embeddings.token_embedding", "embeddings.position_embedding", "encoder", "final_layer_norm")
_TEXT_MODULES = {name: f"{_TEXT_MODEL}{name}" for name in _TEXT_NAMES}
_UNET_PROJECTION = re.compile(r".*\.proj_(in|out)\.weight")
_VAE_ATTENTION = re.compile(r".*\.attn_1\.(q|k|v|proj_out)\.weight")
_STACKED = re.compile(r"(?P<attention>.*transformer\.resblocks\.(?P<layer>\d+)\.attn)\.in_proj_(?P<kind>weight|bias)")
_Q_OF_STACK = re.compile(r"(?P<attention>.*\.attn)\.q_proj\.(?P<kind>weight|bias)")


@dataclass(frozen=True)
class TextEncoderPlace:
    """Where a single file holds a text encoder, and by whose names."""

    prefix: str
    is_open_clip: bool


@dataclass(frozen=True)
class FamilyLayout:
    """In what the single files of a family differ from those of the others."""

    text_encoders: tuple[TextEncoderPlace, ...]
    has_linear_projections: bool
    """Whether the matrices before and after the UNet's transformers are 2-D; else they are 1x1 convolutions."""


LAYOUTS = {
    "sd1": FamilyLayout((TextEncoderPlace(CLIP_PREFIX, is_open_clip=False),), has_linear_projections=False),
    "sd2": FamilyLayout((TextEncoderPlace(OPEN_CLIP_PREFIX, is_open_clip=True),), has_linear_projections=True),
}


@dataclass(frozen=True)
class DiffusersTensors:
    """A single file's weights by their diffusers names; a part that the file lacks is empty."""

    family: str
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    left_over: dict[str, Tensor]
    """What has no place in a diffusers folder, by its name in the file: `extra` for `single_file_tensors`."""


def single_file_tensors(
    family: str, *, unet: Tensors, vae: Tensors, text_encoder: Tensors, extra: Tensors | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a single file, by the names and in the shapes that webuis read.

    Args:
        family: A name in `LAYOUTS`.
        unet: Its state dict, by diffusers names.
        vae: Its state dict, by diffusers names of any age.
        text_encoder: Its state dict, by transformers names; with or without `text_model.` in front, which
            transformers 5.6 and later leave out.
        extra: More tensors by their single-file names, e.g. what the base model's file held beyond a diffusers folder
            (SD2: the 24th layer, `text_projection`). The trained parts win where both have a name.

    Raises:
        ModelError: The family is unknown, or a tensor has no place in its single file.
    """
    layout = _layout_of(family)
    tensors = _translated(unet, UNET_PREFIX, unet_modules(UNetShape.of_diffusers(unet.keys())))
    as_family = _as_linear if layout.has_linear_projections else _as_convolution
    tensors = {name: as_family(tensor) if _UNET_PROJECTION.match(name) else tensor for name, tensor in tensors.items()}
    vae = {modern_vae_name(name): tensor for name, tensor in vae.items()}
    for name, tensor in _translated(vae, VAE_PREFIX, vae_modules(vae.keys())).items():
        tensors[name] = _as_convolution(tensor) if _VAE_ATTENTION.match(name) else tensor
    for place, encoder in zip(layout.text_encoders, (text_encoder,), strict=True):
        tensors |= _placed_text_encoder(place, encoder)
    return tensors | {name: tensor for name, tensor in (extra or {}).items() if name not in tensors}


def diffusers_tensors(tensors: Tensors, *, num_text_layers: int | None = None) -> DiffusersTensors:
    """Return a single file's tensors by their diffusers and transformers names; `text_model.` stands before the latter.

    The projections of the UNet keep their shape: 4-D ones belong to a config without `use_linear_projection`.

    Args:
        tensors: The file's tensors, without an outer level such as `state_dict`.
        num_text_layers: How many layers of an OpenCLIP text encoder to take; by default all but a 24th.

    Raises:
        ModelError: The file is of no family in `LAYOUTS`, or its UNet is incomplete.
    """
    family = family_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    (place,) = _layout_of(family).text_encoders
    unet_modules_back = turned_round(unet_modules(UNetShape.of_ldm(_under(UNET_PREFIX, tensors))))
    vae_modules_back = turned_round(vae_modules(_under(VAE_PREFIX, tensors)))
    text_modules_back = {module: module for module in _TEXT_MODULES.values()} | _TEXT_MODULES
    if place.is_open_clip:
        num_layers = _SD2_TEXT_LAYERS if num_text_layers is None else num_text_layers
        tensors = _unstacked(tensors, num_layers)
        modules = open_clip_modules(num_layers)
        text_modules_back = {new: _TEXT_MODEL + old for old, new in modules.items()}
    unet = _new_names(tensors, UNET_PREFIX, unet_modules_back)
    vae = _new_names(tensors, VAE_PREFIX, vae_modules_back)
    text = _new_names(tensors, place.prefix, text_modules_back)
    taken = {*unet, *vae, *text}
    return DiffusersTensors(
        family=family,
        unet={new: tensors[old] for old, new in unet.items()},
        vae={new: _as_linear(tensors[old]) if _VAE_ATTENTION.match(old) else tensors[old] for old, new in vae.items()},
        text_encoder={new: tensors[old] for old, new in text.items()},
        left_over={name: tensor for name, tensor in tensors.items() if name not in taken},
    )


def _layout_of(family: str) -> FamilyLayout:
    if family not in LAYOUTS:
        known = " and ".join(LAYOUTS)
        raise ModelError("Cannot convert this model.", [Problem(None, f"It is {family}; {known} can be converted.")])
    return LAYOUTS[family]


def _under(prefix: str, names: Iterable[str]) -> list[str]:
    """Return the names that begin with `prefix`, without it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _new_names(names: Iterable[str], prefix: str, modules: Mapping[str, str]) -> dict[str, str]:
    """Return old -> new name of what lies under `prefix` and has a place in the other layout."""
    found = {prefix + name: renamed(name, modules) for name in _under(prefix, names)}
    return {old: new for old, new in found.items() if new is not None}


def _translated(tensors: Tensors, prefix: str, modules: Mapping[str, str]) -> dict[str, Tensor]:
    """Return `tensors` by their single-file names; one that has none is an error, or weights would be lost unseen."""
    names = _new_names(tensors, "", modules)
    if lost := [name for name in tensors if name not in names]:
        what = f"{len(lost)} weights have no place there, such as {lost[0]}."
        raise ModelError("The single file cannot hold all of this model.", [Problem(None, what)])
    return {prefix + new: tensors[old] for old, new in names.items()}


def _placed_text_encoder(place: TextEncoderPlace, tensors: Tensors) -> dict[str, Tensor]:
    tensors = {name.removeprefix(_TEXT_MODEL): tensor for name, tensor in tensors.items()}
    tensors.pop("embeddings.position_ids", None)  # a counter that old versions of transformers saved; nothing reads it
    if not place.is_open_clip:
        return _translated(tensors, place.prefix, _TEXT_MODULES)
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    return _stacked(_translated(tensors, place.prefix, open_clip_modules(len(layers))))


def _stacked(tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with q, k and v of each OpenCLIP layer as one."""
    stacked = dict(tensors)
    for name in tensors:
        if match := _Q_OF_STACK.fullmatch(name):
            attention, kind = match["attention"], match["kind"]
            parts = [stacked.pop(f"{attention}.{letter}_proj.{kind}") for letter in "qkv"]
            stacked[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
    return stacked


def _unstacked(tensors: Tensors, num_layers: int) -> dict[str, Tensor]:
    """Return `tensors` with q, k and v of the first OpenCLIP layers apart."""
    unstacked = dict(tensors)
    for name in tensors:
        match = _STACKED.fullmatch(name)
        if match and int(match["layer"]) < num_layers:
            for letter, part in zip("qkv", unstacked.pop(name).chunk(3), strict=True):
                unstacked[f"{match['attention']}.{letter}_proj.{match['kind']}"] = part.clone()
    return unstacked


def _as_convolution(tensor: Tensor) -> Tensor:
    """Return a matrix as the weight of a 1x1 convolution; what is one already as it is."""
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


def _as_linear(tensor: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as a matrix; what is one already as it is."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor
