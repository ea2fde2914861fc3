"""Between the weights of a diffusers folder and the classic single file that web UIs read."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.errors import ModelError, Problem
from ed2.models.families.facts import (
    FACTS,
    POSITION_IDS,
    UNET_PREFIX,
    VAE_PREFIX,
    FamilyFacts,
    PartFacts,
    trainable_titles,
)
from ed2.models.families.kinds import kind_of
from ed2.models.files.layout_names import (
    UNetShape,
    inverse,
    modern_vae_name,
    open_clip_modules,
    renamed,
    unet_modules,
    vae_modules,
)

Tensors = Mapping[str, Tensor]

_LOGIT_SCALE = math.log(100)
"""Where training of OpenCLIP's encoders ends: the factor is kept at 100 or below. Source: arXiv:2103.00020, 2.5."""
_TEXT_MODEL = "text_model."
_TEXT_NAMES = ("embeddings.token_embedding", "embeddings.position_embedding", "encoder", "final_layer_norm")
_TEXT_PROJECTION = "text_projection.weight"
_TEXT_MODULES = {name: f"{_TEXT_MODEL}{name}" for name in _TEXT_NAMES}
_UNET_PROJECTION = re.compile(r".*\.proj_(in|out)\.weight")
_VAE_ATTENTION = re.compile(r".*\.attn_1\.(q|k|v|proj_out)\.weight")
_DIFFUSERS_VAE_ATTENTION = re.compile(r".*\.attentions\.0\.to_(q|k|v|out\.0)\.weight")
_STACKED = re.compile(r"(?P<attention>.*transformer\.resblocks\.(?P<layer>\d+)\.attn)\.in_proj_(?P<kind>weight|bias)")
_Q_OF_STACK = re.compile(r"(?P<attention>.*\.attn)\.q_proj\.(?P<kind>weight|bias)")


@dataclass(frozen=True)
class DiffusersTensors:
    """A single file's weights by their diffusers names; a part that is not in the file is empty."""

    family: str
    parts: dict[str, dict[str, Tensor]]
    left_over: dict[str, Tensor]
    """Tensors without a place in a diffusers folder, by their names in the file: `extra` of `single_file_tensors`."""


def single_file_tensors(family: str, parts: Mapping[str, Tensors], extra: Tensors | None = None) -> dict[str, Tensor]:
    """Return the tensors of a single file, by the names and in the shapes that web UIs read.

    Args:
        family: its name.
        parts: the state dict of each part: the UNet by diffusers names, the VAE by diffusers names of any age, text
            encoders by transformers names with or without `text_model.` in front.
        extra: more tensors by their single-file names, e.g. what the base model's file contained beyond a diffusers
            folder (of SD2 the 24th layer and `text_projection`). The parts win if both have a name.

    Raises:
        ModelError: the family is unknown, or a tensor has no place in its single file.
    """
    facts = _facts_of(family)
    unet = parts["unet"]
    shape = UNetShape.of_diffusers(unet.keys())
    modules = unet_modules(shape, has_added_embedding=facts.has_added_embedding)
    tensors = _translated(unet, UNET_PREFIX, modules)
    as_family = _as_linear if facts.has_linear_projections else _as_convolution
    for name in filter(_UNET_PROJECTION.match, tensors):
        tensors[name] = as_family(tensors[name])
    vae = {modern_vae_name(name): tensor for name, tensor in parts["vae"].items()}
    for name, tensor in _translated(vae, VAE_PREFIX, vae_modules(vae.keys())).items():
        tensors[name] = _as_convolution(tensor) if _VAE_ATTENTION.match(name) else tensor
    file_only: dict[str, Tensor] = {}
    for encoder in facts.text_encoders:
        translated = _translated_text_encoder(encoder, parts[encoder.name])
        file_only |= _file_only(encoder, translated)
        tensors |= translated
    return {**file_only, **(extra or {}), **tensors}


def diffusers_tensors(tensors: Tensors, *, num_text_layers: Mapping[str, int] | None = None) -> DiffusersTensors:
    """Return a single file's tensors by their diffusers and transformers names; `text_model.` stands before the latter.

    The projections of the UNet keep their shape: 4-D ones belong to a config without `use_linear_projection`.

    Args:
        tensors: the file's tensors, without an outer level such as `state_dict`.
        num_text_layers: how many layers of each OpenCLIP text encoder to take; by default as many as its family has.

    Raises:
        ModelError: the file is of no family that can be trained, or its UNet is incomplete.
    """
    facts = _facts_of(kind_of({name: tuple(tensor.shape) for name, tensor in tensors.items()}))
    num_layers = {encoder.name: encoder.num_layers for encoder in facts.text_encoders} | dict(num_text_layers or {})
    for encoder in facts.text_encoders:
        if encoder.is_open_clip:
            tensors = _unstacked(tensors, encoder.prefix, num_layers[encoder.name])
    left_over, parts = dict(tensors), {}
    for part, names in _diffusers_names(tensors, facts, num_layers).items():
        parts[part] = {new: left_over.pop(old) for old, new in names.items()}
    for name in filter(_DIFFUSERS_VAE_ATTENTION.match, parts["vae"]):
        parts["vae"][name] = _as_linear(parts["vae"][name])
    for encoder in facts.text_encoders:
        if _TEXT_PROJECTION in parts[encoder.name]:
            parts[encoder.name][_TEXT_PROJECTION] = parts[encoder.name][_TEXT_PROJECTION].T.contiguous()
    return DiffusersTensors(facts.name, parts, left_over)


def vae_tensors(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a VAE by their current diffusers names.

    Args:
        tensors: by the names of a single file without their prefix, or by diffusers names of any age. Others, such as
            those of a discriminator, are left out.
    """
    names = _new_names(tensors, "", inverse(vae_modules(tensors)))
    if not any(name.startswith("encoder.down_blocks.") for name in names.values()):
        names = {name: modern_vae_name(name) for name in tensors}
    found = {new: tensors[old] for old, new in names.items()}
    for name in filter(_DIFFUSERS_VAE_ATTENTION.match, found):
        found[name] = _as_linear(found[name])
    return found


def _facts_of(family: str) -> FamilyFacts:
    if family not in FACTS:
        problem = Problem(None, f"It is {family}; only {trainable_titles()} can be converted.")
        raise ModelError("Cannot convert this model.", [problem])
    return FACTS[family]


def _diffusers_names(
    names: Collection[str], facts: FamilyFacts, num_text_layers: Mapping[str, int]
) -> dict[str, dict[str, str]]:
    """Return the diffusers names of a single file's tensors, by part."""
    shape = UNetShape.of_ldm(_under(UNET_PREFIX, names))
    unet = inverse(unet_modules(shape, has_added_embedding=facts.has_added_embedding))
    vae = inverse(vae_modules(_under(VAE_PREFIX, names)))
    found = {"unet": _new_names(names, UNET_PREFIX, unet), "vae": _new_names(names, VAE_PREFIX, vae)}
    for encoder in facts.text_encoders:
        modules = _text_modules_back(encoder, num_text_layers[encoder.name])
        found[encoder.name] = _new_names(names, encoder.prefix, modules)
    return found


def _text_modules_back(encoder: PartFacts, num_layers: int) -> dict[str, str]:
    if encoder.is_open_clip:
        modules = {}
        for old, new in open_clip_modules(num_layers, has_projection=encoder.has_projection).items():
            modules[new] = old if old == _TEXT_PROJECTION else _TEXT_MODEL + old
        return modules
    return {module: module for module in _TEXT_MODULES.values()} | _TEXT_MODULES


def _under(prefix: str, names: Iterable[str]) -> list[str]:
    """Return the names that begin with `prefix`, without it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _new_names(names: Iterable[str], prefix: str, modules: Mapping[str, str]) -> dict[str, str]:
    """Return old -> new name of what lies under `prefix` and has a place in the other layout."""
    found = {prefix + name: renamed(name, modules) for name in _under(prefix, names)}
    return {old: new for old, new in found.items() if new is not None}


def _translated(tensors: Tensors, prefix: str, modules: Mapping[str, str]) -> dict[str, Tensor]:
    """Return `tensors` by their single-file names; one without is an error, or weights would be lost silently."""
    names = _new_names(tensors, "", modules)
    if lost := [name for name in tensors if name not in names]:
        what = f"{len(lost)} weights have no place there, such as {lost[0]}."
        raise ModelError("The single file cannot hold all of this model.", [Problem(None, what)])
    return {prefix + new: tensors[old] for old, new in names.items()}


def _translated_text_encoder(encoder: PartFacts, tensors: Tensors) -> dict[str, Tensor]:
    tensors = {name.removeprefix(_TEXT_MODEL): tensor for name, tensor in tensors.items()}
    tensors.pop(POSITION_IDS.removeprefix(_TEXT_MODEL), None)  # old versions of transformers saved it
    if not encoder.is_open_clip:
        return _translated(tensors, encoder.prefix, _TEXT_MODULES)
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    modules = open_clip_modules(len(layers), has_projection=encoder.has_projection)
    if _TEXT_PROJECTION in tensors:
        tensors[_TEXT_PROJECTION] = tensors[_TEXT_PROJECTION].T
    return _stacked(_translated(tensors, encoder.prefix, modules))


def _file_only(encoder: PartFacts, tensors: Tensors) -> dict[str, Tensor]:
    """Return what every single file has of this text encoder beyond its weights, whose names there are given."""
    added: dict[str, Tensor] = {}
    for name in encoder.file_only:
        if name == POSITION_IDS:
            positions = tensors[encoder.prefix + f"{_TEXT_MODEL}embeddings.position_embedding.weight"]
            added[encoder.prefix + name] = torch.arange(len(positions))[None]
        else:
            dtype = next(iter(tensors.values())).dtype
            added[encoder.prefix + name] = torch.tensor(_LOGIT_SCALE, dtype=dtype)
    return added


def _stacked(tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with q, k and v of each OpenCLIP layer as one."""
    stacked = dict(tensors)
    for name in tensors:
        if match := _Q_OF_STACK.fullmatch(name):
            attention, kind = match["attention"], match["kind"]
            parts = [stacked.pop(f"{attention}.{letter}_proj.{kind}") for letter in "qkv"]
            stacked[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
    return stacked


def _unstacked(tensors: Tensors, prefix: str, num_layers: int) -> dict[str, Tensor]:
    """Return `tensors` with q, k and v of the first OpenCLIP layers under `prefix` separate."""
    unstacked = dict(tensors)
    for name in tensors:
        match = _STACKED.fullmatch(name)
        if match and name.startswith(prefix) and int(match["layer"]) < num_layers:
            for letter, part in zip("qkv", unstacked.pop(name).chunk(3), strict=True):
                unstacked[f"{match['attention']}.{letter}_proj.{match['kind']}"] = part.clone()
    return unstacked


def _as_convolution(tensor: Tensor) -> Tensor:
    """Return a matrix as the weight of a 1x1 convolution; what is one already as it is."""
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


def _as_linear(tensor: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as a matrix; what is one already as it is."""
    return tensor.flatten(1) if tensor.ndim == 4 else tensor
