"""The limit of the machine: UNet forward, backward and a fused AdamW, on latents and embeddings that are ready."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

BATCH = 4
TOKENS = 77


class BareLoop:
    """A loop with nothing in it that could be left out."""

    def __init__(self, base: Path, resolution: int) -> None:
        """Read the UNet of a diffusers folder; `resolution` is that of the images."""
        side = resolution // 8
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet").train()
        self._optimizer = torch.optim.AdamW(self.unet.parameters(), lr=1e-6, fused=True)
        self._latents = torch.randn(BATCH, 4, side, side)
        self._embeds = torch.randn(BATCH, TOKENS, self.unet.config.cross_attention_dim)
        self._target = torch.randn_like(self._latents)

    def step(self) -> None:
        """One update of the weights."""
        steps = torch.randint(0, 1000, (BATCH,))
        loss = F.mse_loss(self.unet(self._latents, steps, self._embeds).sample, self._target)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
