"""The names of a LoRA's layers: kohya's, which web UIs read, and all others that a file may have. Needs no torch.

Source: kohya-ss/sd-scripts, networks/lora.py, and library/sdxl_original_unet.py for the blocks of SDXL.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from ed2.models.families.facts import FamilyFacts, PartFacts
from ed2.models.files.layout_names import UNetShape, renamed, unet_modules

TEXT_MODEL = "text_model."
"""Beginning of the names in a text encoder; some versions of transformers leave it out."""
LAYERS = {
    "attention": r"\.(attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj)$",
    "linear": r"\.attentions\.|(^|\.)encoder\.layers\.",
    "all": r"\.(attentions|resnets|downsamplers|upsamplers)\.|(^|\.)encoder\.layers\.",
}
"""Patterns of the layers that a LoRA changes, by the value of `lora_layers`; those of other trainers are the same."""


def carrying(shapes: Mapping[str, tuple[int, ...]], layers: str) -> list[str]:
    """The modules of a network that a LoRA changes, from the names and shapes of its tensors.

    Args:
        shapes: of the network's tensors, by their names in it.
        layers: a key of `LAYERS`.
    """
    wanted = re.compile(LAYERS[layers])
    weights = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) in (2, 4)]
    return [module for name in weights if wanted.search(module := name.removesuffix(".weight"))]


def kohya_names(
    family: FamilyFacts, part: PartFacts, modules: Collection[str], shape: UNetShape | None = None
) -> dict[str, str]:
    """The names of modules of a network in a LoRA file, without the ending, by their diffusers or transformers names.

    Args:
        family: of the model.
        part: the network.
        modules: what to name.
        shape: of the UNet; by default it follows from `modules`, which then have to be all of them.
    """
    prefix = part.lora_prefix
    if part in family.text_encoders:
        return {module: _flat(f"{prefix}.{TEXT_MODEL}{module.removeprefix(TEXT_MODEL)}") for module in modules}
    if not family.lora_has_original_blocks:
        return {module: _flat(f"{prefix}.{module}") for module in modules}
    return {module: _flat(f"{prefix}.{original}") for module, original in original_names(family, modules, shape)}


def original_names(
    family: FamilyFacts, modules: Collection[str], shape: UNetShape | None = None
) -> Iterator[tuple[str, str]]:
    """The names of a UNet's modules in diffusers and in the original single file, for those that have both."""
    shape = shape or UNetShape.of_diffusers(modules)
    blocks = unet_modules(shape, has_added_embedding=family.has_added_embedding)
    for module in modules:
        original = renamed(module, blocks)
        if original is not None:
            yield module, original


def all_names(family: FamilyFacts, part: PartFacts, modules: Collection[str]) -> dict[str, str]:
    """The modules of a network by every name that a LoRA file may give them, as `flat_name` returns it."""
    found: dict[str, str] = {}
    named = []
    if part in family.text_encoders:
        for module in modules:
            inner = module.removeprefix(TEXT_MODEL)
            named += [(module, inner), (module, f"{TEXT_MODEL}{inner}")]
    else:
        named += [(module, module) for module in modules]
        named += original_names(family, modules)
    for prefix in (part.name, part.lora_prefix, *part.other_lora_prefixes):
        found |= {flat_name(f"{prefix}.{name}"): module for module, name in named}
    return found


def flat_name(name: str) -> str:
    """A layer's name as all kinds of files spell it: without their beginning, and with underscores."""
    return _flat(name).removeprefix("base_model_model_").removeprefix("lora_")


def _flat(name: str) -> str:
    return name.replace(".", "_")
