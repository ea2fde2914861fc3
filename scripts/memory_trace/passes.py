"""Traces of what a run does: a training step, denoising, encoding and decoding of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ed2.training.objective import mse
from scripts.memory_trace.card import LikeACard, checkpointing
from scripts.memory_trace.live import CARD_BLOCK, LiveBytes, Moment
from scripts.memory_trace.networks import Blueprint, made

HALF = torch.bfloat16
LORA_RANK = 16
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TOKENS = 77


@dataclass(frozen=True)
class Variant:
    """What changes the course of a training step's memory.

    Attributes:
        precision: `half` is mixed precision, its frozen parts in half; `fp32` is none.
        trained: `both`, `unet`, `text_encoder`, or `lora`: adapters of the UNet's attention.
        checkpointing: activations are computed twice.
        attention: `sdp` or `slice`.
        weights: what the trained weights are kept in, but for adapters.
    """

    precision: str = "half"
    trained: str = "both"
    checkpointing: bool = False
    attention: str = "sdp"
    weights: str = "fp32"

    @property
    def key(self) -> str:
        """Its name in the file."""
        times = "twice" if self.checkpointing else "once"
        return "/".join((self.precision, self.trained, times, self.attention, self.weights))

    @property
    def half(self) -> torch.dtype | None:
        """The format of autocast."""
        return HALF if self.precision == "half" else None

    @property
    def frozen(self) -> torch.dtype:
        """The format of what is not trained."""
        return self.half or torch.float32


@dataclass(frozen=True)
class Size:
    """Images in a forward pass, the sides of their latents, and how many pixels one of these is."""

    batch: int
    side: int
    downscale: int = 8


@dataclass(frozen=True)
class Where:
    """How bytes are counted: on a card in blocks and with the workspace of convolutions, on a CPU as they are."""

    block: int = CARD_BLOCK
    with_workspace: bool = True

    def live(self) -> LiveBytes:
        """A new count."""
        return LiveBytes(block=self.block, with_workspace=self.with_workspace)


CARD = Where()
CPU = Where(block=1, with_workspace=False)


def training(plan: Blueprint, variant: Variant, size: Size, where: Where = CARD) -> list[Moment]:
    """A forward and a backward pass, as `ed2.training` does them, from the latents on."""
    live = where.live()
    unet = made(plan.unet)
    texts = []
    if variant.trained in ("both", "text_encoder"):
        texts = [made(make) for make in plan.text_encoders.values()]
    _prepare(unet, texts, variant)
    for kind, networks in (("unet", [unet]), ("text_encoder", texts)):
        for network in networks:
            live.hold([*network.parameters(), *network.buffers()])
            live.follow_gradients(network, kind)
    make_card = _cards(live, variant)
    if variant.checkpointing:
        unet.enable_gradient_checkpointing(checkpointing(make_card))
        for text in texts:
            text._set_gradient_checkpointing(True, checkpointing(make_card))
    with live:
        latents = [_empty(size.batch, 4, size.side, size.side) for _ in range(4)]  # plain, noise, noisy, target
        with make_card():
            embeds, extra = _embeds(plan, texts, variant, size.batch)
            prediction = unet(
                latents[2].to(_input_dtype(variant)), _empty(size.batch, dtype=torch.int64), embeds, **extra
            )
            losses = mse(prediction.sample, latents[3], _empty(size.batch))
            del prediction, embeds, extra
        live.phase = "backward"
        losses.sum().backward()
    return live.moments


def _prepare(unet: Any, texts: list[Any], variant: Variant) -> None:
    is_trained = variant.trained in ("both", "unet")
    kept = torch.float32 if variant.weights == "fp32" else variant.frozen
    unet.to(kept if is_trained else variant.frozen).requires_grad_(is_trained)
    for text in texts:
        text.to(kept)
    if variant.trained == "lora":
        add_adapters(unet)
    for module in (unet, *texts):
        module.train()


def add_adapters(unet: Any, rank: int = LORA_RANK) -> int:
    """Give a UNet adapters in fp32, the only ones that are trained; how many numbers they have."""
    from peft import LoraConfig

    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=rank, target_modules=LORA_TARGETS))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return sum(parameter.numel() for parameter in trained)


def _cards(live: LiveBytes, variant: Variant) -> Callable[[], LikeACard]:
    return lambda: LikeACard(live, variant.half, sliced=variant.attention == "slice")


def _input_dtype(variant: Variant) -> torch.dtype:
    """Latents are fp32; without autocast a network in another format needs them in its own."""
    return torch.float32 if variant.half or variant.weights == "fp32" else variant.frozen


def _embeds(plan: Blueprint, texts: list[Any], variant: Variant, batch: int) -> tuple[Tensor, dict[str, Any]]:
    """What guides the UNet: computed by trained text encoders, or put here from the store of those that are not."""
    if not texts:
        embeds = _empty(batch, TOKENS, plan.text_width, dtype=variant.frozen)
        extra = _sizes(_empty(batch, plan.pooled_width, dtype=variant.frozen)) if plan.pooled_width else {}
        return embeds, extra
    tokens = _empty(batch, TOKENS, dtype=torch.int64)
    outputs = [text(tokens, output_hidden_states=len(texts) > 1) for text in texts]
    if len(texts) == 1:
        return outputs[0].last_hidden_state, {}
    return torch.cat([out.hidden_states[-2] for out in outputs], -1), _sizes(outputs[1].text_embeds)


def _sizes(pooled: Tensor) -> dict[str, Any]:
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": _empty(len(pooled), 6)}}


def denoising(plan: Blueprint, variant: Variant, size: Size, where: Where = CARD) -> list[Moment]:
    """Two denoising steps within one autocast, in the second of which all weights are cast already."""
    live = where.live()
    unet = made(plan.unet).to(torch.float32).eval()
    live.hold([*unet.parameters(), *unet.buffers()])
    with live, torch.no_grad(), _cards(live, variant)():
        embeds, extra = _embeds(plan, [], variant, size.batch)
        latents = _empty(size.batch, 4, size.side, size.side)
        for _ in range(2):
            unet(latents, _empty(size.batch, dtype=torch.int64), embeds, **extra)
    return live.moments


def encoding(plan: Blueprint, variant: Variant, size: Size, where: Where = CARD) -> list[Moment]:
    """Pixels to latents, without autocast."""
    return _by_vae(plan, variant, where, (size.batch, 3, size.side * size.downscale), "encode")


def decoding(plan: Blueprint, variant: Variant, size: Size, where: Where = CARD) -> list[Moment]:
    """Latents to pixels, without autocast."""
    return _by_vae(plan, variant, where, (size.batch, 4, size.side), "decode")


def _by_vae(plan: Blueprint, variant: Variant, where: Where, shape: tuple[int, int, int], what: str) -> list[Moment]:
    live = where.live()
    vae = made(plan.vae).to(variant.frozen).eval().requires_grad_(False)
    live.hold(vae.parameters())
    batch, channels, side = shape
    with live, torch.no_grad(), LikeACard(live, None):
        given = _empty(batch, channels, side, side, dtype=variant.frozen)
        result = getattr(vae, what)(given)
        del result
    return live.moments


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")
