"""Stable Diffusion XL: two text encoders, and images that know their size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.models.base import Conditioning, ImageSizes, TextEmbeds, on_device
from ed2.models.families.sd import StableDiffusion


@dataclass
class StableDiffusionXL(StableDiffusion):
    """An SDXL model: SD with a second text encoder, whose pooled vector and the image's sizes guide the UNet too.

    Source: Podell et al. 2023, arXiv:2307.01952, sections 2.1 and 2.2; names and order as in diffusers'
    StableDiffusionXLPipeline.
    """

    def condition(self, embeds: TextEmbeds, sizes: ImageSizes) -> Conditioning:
        """The embeddings, and six numbers of each image: original height and width, crop top and left, target sides."""
        # In fp32 whatever the networks compute in: bf16 has only the numbers 1216 and 1224, for example, near 1220.
        time_ids = torch.cat([sizes.original, sizes.crop, sizes.target], dim=1).float()
        added = {"time_ids": on_device(time_ids, self.device)}
        if embeds.pooled is not None:
            added["text_embeds"] = embeds.pooled
        return Conditioning(embeds.hidden, added)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction."""
        added = dict(conditioning.added)
        return self.denoiser(noisy_latents, timesteps, conditioning.hidden, added_cond_kwargs=added).sample

    def _encode(self, captions: Sequence[str]) -> TextEmbeds:
        """Both encoders' inner states side by side, and the second one's pooled vector; zeros for an empty caption.

        The web UIs that people train for (AUTOMATIC1111's and Forge) give zeros for an empty negative prompt, as the
        base model was trained; so a dropped caption is trained as zeros too.
        """
        first, second = self.encoders
        chunks = first.chunks(captions, self.caption_chunks)
        self.visits.chunks = chunks.counts
        states = first.all_states(chunks.tokens)
        # Its own tokens: the same ones, with another number behind the end.
        tokens = second.chunks(captions, self.caption_chunks).tokens
        more_states = second.all_states(tokens)
        is_empty = on_device(torch.tensor([not caption.strip() for caption in captions]), self.device)
        layer = -max(self.facts.text_layer, self.clip_skip)
        hidden = torch.cat([states.hidden_states[layer], more_states.hidden_states[layer]], dim=-1)
        return TextEmbeds(
            chunks.by_caption(hidden).masked_fill(is_empty[:, None, None], 0),
            chunks.first(more_states.text_embeds).masked_fill(is_empty[:, None], 0),
        )


load = StableDiffusionXL.load
