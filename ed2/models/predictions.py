"""Whether two copies of a model on the disk predict the same: each network alone, on the CPU, in fp32.

Only one network is in memory at a time. Nothing is drawn from a generator that others use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS, VAE, PartFacts
from ed2.models.files.header import read_header

LATENT = 16
"""Width and height of the latents."""
TIMESTEP = 500
SEED = 0
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The largest difference that rounding weights to these types explains, relative to what is predicted."""
FP32_BYTES = 4
SIZES = ("block_out_channels", "layers_per_block", "cross_attention_dim", "hidden_size", "num_hidden_layers")
"""Entries of configurations that the shapes of weights depend on."""


@dataclass(frozen=True)
class PartDifference:
    """How far apart two predictions are.

    Attributes:
        part: name of the network.
        relative: norm of the difference over that of the prediction; the largest one of a network's outputs.
        tolerance: what rounding explains.
    """

    part: str
    relative: float
    tolerance: float

    @property
    def is_equal(self) -> bool:
        """Whether rounding explains it; false for numbers that are not finite."""
        return self.relative <= self.tolerance


def compare_predictions(one: ModelSource, other: ModelSource) -> Iterator[PartDifference]:
    """Yield how far apart the predictions of each network are.

    Args:
        one: what to measure by.
        other: of the same family.

    Raises:
        ModelError: a network cannot be read.
    """
    for part in FACTS[one.family].parts:
        wanted = _predict(part, one)
        found = _predict(part, other)
        relative = max(float((a - b).norm() / a.norm()) for a, b in zip(wanted, found, strict=True))
        yield PartDifference(part.name, relative, TOLERANCES.get(other.dtypes[part.name], 0.0))


def memory_for(other: ModelSource) -> int:
    """The most bytes that the comparison with a single file takes: a network as it is stored there, and in fp32."""
    header, most = read_header(other.path), 0
    for part in FACTS[other.family].parts:
        sizes = [end - begin for name, (begin, end) in header.places.items() if name.startswith(part.prefix)]
        num_bytes = sum(sizes)
        most = max(most, num_bytes + num_bytes // other.dtypes[part.name].itemsize * FP32_BYTES)
    return most


def other_size(saved: ModelSource, opened: ModelSource) -> str:
    """Why a single file cannot be read with the configuration of its family; empty if it can.

    A single file holds no configuration: what opens it takes the one that all models of its family have.
    """
    for part in FACTS[saved.family].parts:
        own, of_family = saved.config(part.config), opened.config(part.config)
        if any(own[name] != of_family[name] for name in SIZES if name in own and name in of_family):
            return f"its {part.name} does not have the size of {FACTS[saved.family].title}"
    return ""


@torch.no_grad()
def _predict(part: PartFacts, source: ModelSource) -> list[Tensor]:
    """What a network makes of fixed noise, or of fixed tokens."""
    module: Any = source.read(part.name).eval()
    generator = torch.Generator().manual_seed(SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    config = module.config
    if part in FACTS[source.family].text_encoders:
        tokens = torch.arange(config.max_position_embeddings)[None] % config.vocab_size
        tokens[:, -1] = config.eos_token_id
        output = module(tokens, output_hidden_states=True)
        return [output.hidden_states[-2], output[0], output[1]]
    channels = FACTS[source.family].latent_channels
    latents = noise(1, channels, LATENT, LATENT)
    if part.name == VAE:
        image = module.decode(latents).sample
        return [image, module.encode(image.clamp(-1, 1)).latent_dist.mean]
    added: dict[str, Tensor] = {}
    if FACTS[source.family].has_added_embedding:
        time_ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]])
        width = config.projection_class_embeddings_input_dim - time_ids.shape[1] * config.addition_time_embed_dim
        added = {"time_ids": time_ids, "text_embeds": noise(1, width)}
    hidden = noise(1, 77, config.cross_attention_dim)
    return [module(latents, TIMESTEP, hidden, added_cond_kwargs=added).sample]
