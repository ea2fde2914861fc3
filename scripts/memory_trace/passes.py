"""Traces of what a run does: a training step, denoising, encoding and decoding of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ed2.models.lora.adapter import AdapterOptions, add_adapter
from ed2.training.objective import mse
from scripts.memory_trace.card import LikeACard, checkpointing
from scripts.memory_trace.live import CARD_BLOCK, LiveBytes, Moment
from scripts.memory_trace.networks import Blueprint, made

HALF = torch.bfloat16
LORA_RANK = 16
TOKENS = 77


@dataclass(frozen=True)
class Variant:
    """What changes the course of a training step's memory.

    Attributes:
        precision: `half` is mixed precision, its frozen parts in half; `fp32` is none.
        trained: `both`, `unet`, `text_encoder`, `lora` (adapters of the UNet) or `lora-both` (of all networks).
        checkpointing: activations are computed twice.
        attention: `sdp` or `slice`.
        weights: what the trained weights are kept in; of adapters, which are in fp32, the layers that have them.
        dora: the adapters have magnitudes.
    """

    precision: str = "half"
    trained: str = "both"
    checkpointing: bool = False
    attention: str = "sdp"
    weights: str = "fp32"
    dora: bool = False

    @property
    def key(self) -> str:
        """Its name in the file."""
        times = "twice" if self.checkpointing else "once"
        weights = f"{self.weights}-dora" if self.dora else self.weights
        return "/".join((self.precision, self.trained, times, self.attention, weights))

    @property
    def has_adapters(self) -> bool:
        """Whether a LoRA is trained."""
        return self.trained.startswith("lora")

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
    texts = {}
    if variant.trained in ("both", "text_encoder", "lora-both"):
        texts = {name: made(make) for name, make in plan.text_encoders.items()}
    _prepare({"unet": unet, **texts}, variant)
    for kind, networks in (("unet", [unet]), ("text_encoder", texts.values())):
        for network in networks:
            live.hold([*network.parameters(), *network.buffers()])
            live.follow_gradients(network, kind)
    make_card = _cards(live, variant)
    if variant.checkpointing:
        unet.enable_gradient_checkpointing(checkpointing(make_card))
        for text in texts.values():
            text._set_gradient_checkpointing(True, checkpointing(make_card))
    with live:
        latents = [_empty(size.batch, 4, size.side, size.side) for _ in range(4)]  # plain, noise, noisy, target
        with make_card():
            embeds, extra = _embeds(plan, list(texts.values()), variant, size.batch)
            prediction = unet(
                latents[2].to(_input_dtype(variant)), _empty(size.batch, dtype=torch.int64), embeds, **extra
            )
            losses = mse(prediction.sample, latents[3], _empty(size.batch))
            del prediction, embeds, extra
        live.phase = "backward"
        losses.sum().backward()
    return live.moments


def _prepare(networks: Mapping[str, Any], variant: Variant) -> None:
    if variant.has_adapters:
        for name, network in networks.items():
            network.to(variant.frozen)
            add_adapters(name, network, variant)
            network.train()
        return
    kept = torch.float32 if variant.weights == "fp32" else variant.frozen
    for name, network in networks.items():
        is_trained = name != "unet" or variant.trained in ("both", "unet")
        network.to(kept if is_trained else variant.frozen).requires_grad_(is_trained)
        network.train()


def add_adapters(name: str, network: Any, variant: Variant, rank: int = LORA_RANK) -> None:
    """Give a network without content adapters, the only parameters that are trained."""
    with torch.device("meta"):
        add_adapter(name, network, AdapterOptions(rank, rank, variant.weights, seed=0, dora=variant.dora))


def _cards(live: LiveBytes, variant: Variant) -> Callable[[], LikeACard]:
    return lambda: LikeACard(live, variant.half, sliced=variant.attention == "slice")


def _input_dtype(variant: Variant) -> torch.dtype:
    """Latents are fp32; without autocast a network in another format needs them in its own."""
    return variant.frozen if variant.weights == "half" and not variant.half else torch.float32


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
