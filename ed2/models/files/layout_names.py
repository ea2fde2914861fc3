"""The names of weights in a diffusers folder and in the classic single file. Needs no torch.

Both layouts have the same weights under different names. For each part (UNet, VAE, text encoder) there is a map from
the diffusers name of a module to its name in the single file, without the part's prefix; the way back is its inverse.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from ed2.errors import ModelError, Problem

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# Folders written by old versions of diffusers, such as those of SD 1.5 and 2.1, name the VAE's attention like this.
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
_OPEN_CLIP_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def renamed(name: str, modules: Mapping[str, str]) -> str | None:
    """Return `name` with its longest prefix in `modules` replaced; None if there is none."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = modules.get(".".join(parts[:end]))
        if module is not None:
            return ".".join([module, *parts[end:]])
    return None


def inverse(modules: Mapping[str, str]) -> dict[str, str]:
    """Return the inverse map."""
    return {new: old for old, new in modules.items()}


def _nested(old: str, new: str, inner: Mapping[str, str]) -> dict[str, str]:
    """Return `inner` with `old` before its keys and `new` before its values."""
    return {f"{old}.{old_name}": f"{new}.{new_name}" for old_name, new_name in inner.items()}


def _numbers(names: Iterable[str], pattern: str) -> set[tuple[int, ...]]:
    """Return the numbers in the groups of `pattern`, for every name that starts with it."""
    matches = map(re.compile(pattern).match, names)
    return {tuple(map(int, match.groups())) for match in matches if match}


@dataclass(frozen=True)
class UNetShape:
    """The layers of a UNet that the names in the single file depend on."""

    layers_per_block: int
    attention_levels: tuple[bool, ...]
    """Whether each level has attention, from full resolution down."""

    @property
    def num_levels(self) -> int:
        """Number of resolutions."""
        return len(self.attention_levels)

    @classmethod
    def of_diffusers(cls, names: Collection[str]) -> "UNetShape":
        """Return the shape of a UNet from its names in a diffusers folder.

        Raises:
            ModelError: A single file cannot contain such a UNet.
        """
        down = _numbers(names, r"down_blocks\.(\d+)\.resnets\.(\d+)\.")
        up = _numbers(names, r"up_blocks\.(\d+)\.resnets\.(\d+)\.")
        levels = len({block for block, _ in down})
        layers = len(down) // max(1, levels)
        full = set(product(range(levels), range(layers)))
        if not layers or down != full or up != full | {(block, layers) for block in range(levels)}:
            raise _no_classic_unet("Its blocks are incomplete, or have different numbers of layers.")
        down_attention = _numbers(names, r"down_blocks\.(\d+)\.attentions\.")
        up_attention = _numbers(names, r"up_blocks\.(\d+)\.attentions\.")
        down_levels = tuple((block,) in down_attention for block in range(levels))
        if tuple((block,) in up_attention for block in range(levels)) != down_levels[::-1]:
            raise _no_classic_unet("It has attention on different levels on the way up and on the way down.")
        return cls(layers, down_levels)

    @classmethod
    def of_ldm(cls, names: Collection[str]) -> "UNetShape":
        """Return the shape of a UNet from its names in a single file, without its prefix.

        Raises:
            ModelError: The blocks are not those of a Stable Diffusion UNet.
        """
        blocks = {block for (block,) in _numbers(names, r"input_blocks\.(\d+)\.")}
        # A level ends with a block that only halves the resolution, except for the last.
        halvings = sorted(block for (block,) in _numbers(names, r"input_blocks\.(\d+)\.0\.op\."))
        stride, levels = (halvings or [len(blocks)])[0], len(halvings) + 1
        if stride < 2 or blocks != set(range(levels * stride)) or halvings != [*range(stride, levels * stride, stride)]:
            raise _no_classic_unet("Its input blocks are incomplete, or have different numbers of layers.")
        attention = {(block - 1) // stride for (block,) in _numbers(names, r"input_blocks\.(\d+)\.1\.")}
        return cls(stride - 1, tuple(level in attention for level in range(levels)))


def _no_classic_unet(why: str) -> ModelError:
    return ModelError("This UNet cannot be converted to the other layout.", [Problem("unet", why)])


def unet_modules(shape: UNetShape, *, has_added_embedding: bool) -> dict[str, str]:
    """Return diffusers module -> single-file module for a UNet of this shape."""
    modules = _UNET_ENDS | _UNET_ADDED if has_added_embedding else dict(_UNET_ENDS)
    for block, attention in enumerate(shape.attention_levels):
        modules |= _down_block(block, attention, shape)
    for index in (0, 1):
        modules |= _nested(f"mid_block.resnets.{index}", f"middle_block.{2 * index}", _UNET_RESNET)
    modules["mid_block.attentions.0"] = "middle_block.1"
    for block, attention in enumerate(reversed(shape.attention_levels)):
        modules |= _up_block(block, attention, shape)
    return modules


def _layers(old: str, new: str, first: int, number: int, attention: bool) -> dict[str, str]:
    """Return the names of a block's layers; `first` is the number of the first one in the single file."""
    modules: dict[str, str] = {}
    for layer in range(number):
        modules |= _nested(f"{old}.resnets.{layer}", f"{new}.{first + layer}.0", _UNET_RESNET)
        if attention:
            modules[f"{old}.attentions.{layer}"] = f"{new}.{first + layer}.1"
    return modules


def _down_block(block: int, attention: bool, shape: UNetShape) -> dict[str, str]:
    stride = shape.layers_per_block + 1
    old = f"down_blocks.{block}"
    modules = _layers(old, "input_blocks", block * stride + 1, shape.layers_per_block, attention)
    if block < shape.num_levels - 1:
        modules[f"{old}.downsamplers.0.conv"] = f"input_blocks.{(block + 1) * stride}.0.op"
    return modules


def _up_block(block: int, attention: bool, shape: UNetShape) -> dict[str, str]:
    stride = shape.layers_per_block + 1
    old = f"up_blocks.{block}"
    modules = _layers(old, "output_blocks", block * stride, stride, attention)
    if block < shape.num_levels - 1:
        # The upsampler has no block of its own: it follows the last layer's resnet and attention.
        modules[f"{old}.upsamplers.0.conv"] = f"output_blocks.{(block + 1) * stride - 1}.{1 + attention}.conv"
    return modules


def vae_modules(names: Collection[str]) -> dict[str, str]:
    """Return diffusers module -> single-file module for the VAE with these names, in either layout."""
    found = _numbers(names, r"(?:en|de)coder\.(?:down|up)(?:_blocks)?\.(\d+)\.(?:resnets|block)\.(\d+)\.")
    levels = 1 + max((level for level, _ in found), default=-1)
    layers = 1 + max((layer for _, layer in found), default=-1)
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    for coder in ("encoder", "decoder"):
        ends = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
        modules |= _nested(coder, coder, ends)
        for index in (0, 1):
            modules |= _nested(f"{coder}.mid_block.resnets.{index}", f"{coder}.mid.block_{index + 1}", _VAE_RESNET)
        modules |= _nested(f"{coder}.mid_block.attentions.0", f"{coder}.mid.attn_1", _VAE_ATTENTION)
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        # The single file counts the decoder's levels from full resolution, as the encoder's; diffusers as they run.
        new_down, new_up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        modules[f"{down}.downsamplers.0.conv"] = f"{new_down}.downsample.conv"
        modules[f"{up}.upsamplers.0.conv"] = f"{new_up}.upsample.conv"
        for layer in range(layers):
            modules |= _nested(f"{down}.resnets.{layer}", f"{new_down}.block.{layer}", _VAE_RESNET)
            modules |= _nested(f"{up}.resnets.{layer}", f"{new_up}.block.{layer}", _VAE_RESNET)
    return modules


def modern_vae_name(name: str) -> str:
    """Return the current diffusers name of a VAE weight that an old version of diffusers named differently."""
    head, dot, kind = name.rpartition(".")
    module, _, last = head.rpartition(".")
    if module.endswith("mid_block.attentions.0") and last in _OLD_VAE_ATTENTION:
        return f"{module}.{_OLD_VAE_ATTENTION[last]}{dot}{kind}"
    return name


def open_clip_modules(num_layers: int, *, has_projection: bool) -> dict[str, str]:
    """Return transformers module, without `text_model.`, -> OpenCLIP module.

    Both sides have `q_proj`, `k_proj` and `v_proj` here; OpenCLIP itself stacks the three in one tensor.
    """
    modules = dict(_OPEN_CLIP_ENDS)
    if has_projection:
        modules["text_projection.weight"] = "text_projection"
    for layer in range(num_layers):
        modules |= _nested(f"encoder.layers.{layer}", f"transformer.resblocks.{layer}", _OPEN_CLIP_BLOCK)
    return modules
