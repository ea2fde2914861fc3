"""Reads a single file as a program that opens it does: are its tensors, and its predictions, those that were saved?

Tensors are compared one by one, before the file gets its name. Predictions are compared network by network, on the CPU
in fp32; only one network is in memory at a time, and nothing is drawn from a generator that others use.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS, POSITION_IDS, VAE, FamilyFacts, PartFacts
from ed2.models.families.kinds import described, kind_of
from ed2.models.files.description import said_prediction
from ed2.models.files.header import Header, read_header
from ed2.models.files.layout import diffusers_tensors, vae_tensors
from ed2.models.files.tensor_file import Content, Pair, Tensors, difference
from ed2.models.files.tokens import CONTEXT_LENGTH

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
class SavedModel:
    """A model as it goes into a single file.

    Attributes:
        prediction_type: in diffusers' words.
        parts: its tensors by part, and by their names in a diffusers folder.
        content: every tensor of the file, by its name there.
        dtype: of the floating-point ones in the file; None leaves them as they are.
    """

    family: str
    prediction_type: str
    parts: Mapping[str, Tensors]
    content: Tensors
    dtype: torch.dtype | None

    def fault_in(self, written: Content) -> str | None:
        """What is read from a file otherwise than it was saved; None if all of it is the same, and finite.

        Tensor by tensor: the bytes of a file are read when they are compared.
        """
        fault = self._other_model(written)
        return fault or difference(self._pairs(written.tensors), self.dtype)

    def _other_model(self, written: Content) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in written.tensors.items()}
        kind = kind_of(shapes)
        if kind != self.family:
            return f"It opens as {described(kind)}, not as {described(self.family)}."
        said = said_prediction(Header(shapes, {}, dict(written.metadata), {})) or FACTS[kind].prediction_type
        if said != self.prediction_type:
            return f"It opens as a model that predicts {said}, not {self.prediction_type}."
        return ""

    def _pairs(self, written: Tensors) -> Iterator[Pair]:
        """The tensors of every part by the names of a folder, then those that only a file has."""
        facts = FACTS[self.family]
        read = diffusers_tensors(written, num_text_layers=_num_text_layers(facts, self.parts))
        for part in facts.parts:
            found = read.parts[part.name]
            given = as_read(facts, part.name, self.parts[part.name])
            for name in sorted(found.keys() | given.keys()):
                yield f"{part.name}/{name}", _in_shape_of(given.get(name), found.get(name)), given.get(name)
        for name, tensor in read.left_over.items():
            yield name, tensor, self.content.get(name)
        for name in sorted(self.content.keys() - written.keys()):
            yield name, None, self.content[name]


def as_read(facts: FamilyFacts, part: str, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of a part's folder by the names, and in the shapes, in which those of a single file are read."""
    encoders = {encoder.name: encoder for encoder in facts.text_encoders}
    if part == VAE:
        return vae_tensors(tensors)
    if part not in encoders:
        return dict(tensors)
    prefix = encoders[part].saved_prefix
    named = {}
    for name, tensor in tensors.items():
        named[name if name.startswith((prefix, "text_projection.")) else prefix + name] = tensor
    named.pop(POSITION_IDS, None)
    return named


def _in_shape_of(given: Tensor | None, found: Tensor | None) -> Tensor | None:
    """A matrix of a file as a folder holds it: there it may be a 1x1 convolution, or the other way round."""
    if given is None or found is None or {given.ndim, found.ndim} != {2, 4} or given.numel() != found.numel():
        return found
    return found.reshape(given.shape)


def _num_text_layers(facts: FamilyFacts, parts: Mapping[str, Tensors]) -> dict[str, int]:
    """How many layers each text encoder has, by its name."""
    counts = {}
    for encoder in facts.text_encoders:
        numbers = {name.split("layers.")[1].split(".")[0] for name in parts[encoder.name] if "layers." in name}
        counts[encoder.name] = len(numbers)
    return counts


@dataclass(frozen=True)
class PartDifference:
    """How far apart two predictions are.

    Attributes:
        part: title of the network.
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
        yield PartDifference(part.title, relative, TOLERANCES.get(other.dtypes[part.name], 0.0))


def comparison_bytes(single_file: ModelSource) -> int:
    """The most memory that comparing predictions takes: a network as it is stored in the file, and in fp32."""
    header, most = read_header(single_file.path), 0
    for part in FACTS[single_file.family].parts:
        sizes = [end - begin for name, (begin, end) in header.places.items() if name.startswith(part.prefix)]
        num_bytes = sum(sizes)
        most = max(most, num_bytes + num_bytes // single_file.dtypes[part.name].itemsize * FP32_BYTES)
    return most


def size_difference(saved: ModelSource, opened: ModelSource) -> str:
    """Why a single file cannot be read with the configuration of its family; empty if it can.

    A single file holds no configuration: what opens it takes the one that all models of its family have.
    """
    for part in FACTS[saved.family].parts:
        own, of_family = saved.config(part.config), opened.config(part.config)
        if any(own[name] != of_family[name] for name in SIZES if name in own and name in of_family):
            return f"its {part.title} does not have the size of {FACTS[saved.family].title}"
    return ""


@torch.no_grad()
def _predict(part: PartFacts, source: ModelSource) -> list[Tensor]:
    """The outputs of a network for fixed noise or fixed tokens."""
    module: Any = source.read(part.name).eval()
    generator = torch.Generator().manual_seed(SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    config = module.config
    if part.is_text_encoder:
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
    hidden = noise(1, CONTEXT_LENGTH, config.cross_attention_dim)
    return [module(latents, TIMESTEP, hidden, added_cond_kwargs=added).sample]
