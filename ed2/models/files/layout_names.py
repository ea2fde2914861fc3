"""The names of weights in a diffusers folder and in the classic single file. Needs no torch.

Both layouts hold the same weights under other names. For each part (UNet, VAE, text encoder) there is a map from the
diffusers name of a module to its name in the single file, where the part's prefix is left out; the way back is the
same map turned round.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ed2.errors import ModelError, Problem

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
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
# Folders written by old versions of diffusers, among them those of SD 1.5 and 2.1, name the VAE's attention like this.
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
    """Return `name` with the longest module in front of it that `modules` knows replaced; None if it knows none."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = modules.get(".".join(parts[:end]))
        if module is not None:
            return ".".join([module, *parts[end:]])
    return None


def turned_round(modules: Mapping[str, str]) -> dict[str, str]:
    """Return the map for the way back."""
    return {new: old for old, new in modules.items()}


def _within(old: str, new: str, inner: Mapping[str, str]) -> dict[str, str]:
    """Return `inner` with `old` and `new` put before its two sides."""
    return {f"{old}.{old_name}": f"{new}.{new_name}" for old_name, new_name in inner.items()}


def _numbers(names: Iterable[str], pattern: str) -> set[tuple[int, ...]]:
    """Return the numbers in the groups of `pattern`, for every name that begins with it."""
    matches = map(re.compile(pattern).match, names)
    return {tuple(map(int, match.groups())) for match in matches if match}


@dataclass(frozen=True)
class UNetShape:
    """Which layers a UNet has, as far as the names in the single file depend on it."""

    layers_per_block: int
    attention_levels: tuple[bool, ...]
    """Whether a level has attention, from full resolution down."""

    @property
    def num_levels(self) -> int:
        """Number of resolutions."""
        return len(self.attention_levels)

    @classmethod
    def of_config(cls, config: Mapping[str, object]) -> "UNetShape":
        """Return the shape that the config of a diffusers UNet describes.

        Raises:
            ModelError: The single file has no place for such a UNet.
        """
        kinds = {"DownBlock2D": False, "UpBlock2D": False, "CrossAttnDownBlock2D": True, "CrossAttnUpBlock2D": True}
        down, up, layers = (config.get(key) for key in ("down_block_types", "up_block_types", "layers_per_block"))
        if not isinstance(down, list | tuple) or not isinstance(up, list | tuple) or not isinstance(layers, int):
            raise _no_classic_unet("Its config lacks the kinds of its blocks, or one number of layers for all of them.")
        if unknown := {str(kind) for kind in (*down, *up)} - kinds.keys():
            raise _no_classic_unet(f"Blocks like {', '.join(sorted(unknown))} are not known there.")
        return cls._checked(layers, [kinds[kind] for kind in down], [kinds[kind] for kind in up])

    @classmethod
    def of_diffusers(cls, names: Collection[str]) -> "UNetShape":
        """Return the shape of a UNet from its names in a diffusers folder.

        Raises:
            ModelError: The single file has no place for such a UNet.
        """
        down = _numbers(names, r"down_blocks\.(\d+)\.resnets\.(\d+)\.")
        up = _numbers(names, r"up_blocks\.(\d+)\.resnets\.(\d+)\.")
        levels = len({block for block, _ in down})
        layers = len(down) // levels if levels else 0
        full = {(block, layer) for block in range(levels) for layer in range(layers)}
        if not layers or down != full or up != full | {(block, layers) for block in range(levels)}:
            raise _no_classic_unet("Its blocks are incomplete, or have different numbers of layers.")
        down_attention = _numbers(names, r"down_blocks\.(\d+)\.attentions\.")
        up_attention = _numbers(names, r"up_blocks\.(\d+)\.attentions\.")
        blocks = [(block,) for block in range(levels)]
        return cls._checked(layers, [b in down_attention for b in blocks], [b in up_attention for b in blocks])

    @classmethod
    def of_ldm(cls, names: Collection[str]) -> "UNetShape":
        """Return the shape of a UNet from its names in a single file, without its prefix.

        Raises:
            ModelError: The blocks are not those of a Stable Diffusion UNet.
        """
        blocks = {block for (block,) in _numbers(names, r"input_blocks\.(\d+)\.")}
        # A level ends in a block that only halves the resolution; the last level has none.
        halvings = sorted(block for (block,) in _numbers(names, r"input_blocks\.(\d+)\.0\.op\."))
        stride, levels = (halvings or [len(blocks)])[0], len(halvings) + 1
        if stride < 2 or blocks != set(range(levels * stride)) or halvings != [*range(stride, levels * stride, stride)]:
            raise _no_classic_unet("Its input blocks are incomplete, or have different numbers of layers.")
        attention = {(block - 1) // stride for (block,) in _numbers(names, r"input_blocks\.(\d+)\.1\.")}
        return cls(stride - 1, tuple(level in attention for level in range(levels)))

    @classmethod
    def _checked(cls, layers: int, down_attention: list[bool], up_attention: list[bool]) -> "UNetShape":
        if up_attention != down_attention[::-1]:
            raise _no_classic_unet("It has attention on other levels on the way up than on the way down.")
        return cls(layers, tuple(down_attention))


def _no_classic_unet(why: str) -> ModelError:
    return ModelError("This UNet cannot be brought into the other layout.", [Problem("unet", why)])


def unet_modules(shape: UNetShape) -> dict[str, str]:
    """Return diffusers module -> single-file module for a UNet of this shape."""
    modules = dict(_UNET_ENDS)
    for block, attention in enumerate(shape.attention_levels):
        modules |= _down_block(block, attention, shape)
    for index in (0, 1):
        modules |= _within(f"mid_block.resnets.{index}", f"middle_block.{2 * index}", _UNET_RESNET)
    modules["mid_block.attentions.0"] = "middle_block.1"
    for block, attention in enumerate(reversed(shape.attention_levels)):
        modules |= _up_block(block, attention, shape)
    return modules


def _layers(old: str, new: str, first: int, number: int, attention: bool) -> dict[str, str]:
    """Return the names of a block's layers; `first` is the number of the first one in the single file."""
    modules: dict[str, str] = {}
    for layer in range(number):
        modules |= _within(f"{old}.resnets.{layer}", f"{new}.{first + layer}.0", _UNET_RESNET)
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
        # The upsampler has no block of its own: it stands behind the last layer's resnet and attention.
        modules[f"{old}.upsamplers.0.conv"] = f"output_blocks.{(block + 1) * stride - 1}.{1 + attention}.conv"
    return modules


def vae_modules(names: Collection[str]) -> dict[str, str]:
    """Return diffusers module -> single-file module for the VAE of these names, which may be in either layout."""
    found = _numbers(names, r"(?:en|de)coder\.(?:down|up)(?:_blocks)?\.(\d+)\.(?:resnets|block)\.(\d+)\.")
    levels, layers = (1 + max((numbers[i] for numbers in found), default=-1) for i in (0, 1))
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    for coder in ("encoder", "decoder"):
        ends = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
        modules |= _within(coder, coder, ends)
        for index in (0, 1):
            modules |= _within(f"{coder}.mid_block.resnets.{index}", f"{coder}.mid.block_{index + 1}", _VAE_RESNET)
        modules |= _within(f"{coder}.mid_block.attentions.0", f"{coder}.mid.attn_1", _VAE_ATTENTION)
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        # The single file counts the decoder's levels from full resolution, as the encoder's; diffusers as they run.
        new_down, new_up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        modules[f"{down}.downsamplers.0.conv"] = f"{new_down}.downsample.conv"
        modules[f"{up}.upsamplers.0.conv"] = f"{new_up}.upsample.conv"
        for layer in range(layers):
            modules |= _within(f"{down}.resnets.{layer}", f"{new_down}.block.{layer}", _VAE_RESNET)
            modules |= _within(f"{up}.resnets.{layer}", f"{new_up}.block.{layer}", _VAE_RESNET)
    return modules


def modern_vae_name(name: str) -> str:
    """Return today's diffusers name for one that an old version of diffusers gave to a VAE weight."""
    head, dot, kind = name.rpartition(".")
    module, _, last = head.rpartition(".")
    if module.endswith("mid_block.attentions.0") and last in _OLD_VAE_ATTENTION:
        return f"{module}.{_OLD_VAE_ATTENTION[last]}{dot}{kind}"
    return name


def open_clip_modules(num_layers: int) -> dict[str, str]:
    """Return transformers module, without `text_model.`, -> OpenCLIP module.

    Both sides have `q_proj`, `k_proj` and `v_proj` here; OpenCLIP itself keeps the three stacked in one tensor.
    """
    modules = dict(_OPEN_CLIP_ENDS)
    for layer in range(num_layers):
        modules |= _within(f"encoder.layers.{layer}", f"transformer.resblocks.{layer}", _OPEN_CLIP_BLOCK)
    return modules
