"""LoRA as a way to train a network: its weights stay as they are, and small matrices beside them are trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ed2.draws import rng
from ed2.models.device_draws import device_rng, random_int16
from ed2.models.files.tokens import CONTEXT_LENGTH
from ed2.models.lora.names import carrying
from ed2.models.parts import ADAPTER, BatchVisits, RowKey

RANGE = 2**16
READS_CAPTIONS = (".attn2.to_k", ".attn2.to_v")
"""Ends of the names of layers whose inputs are captions. A short one is repeated beside a longer one, so the chunks of
a caption share a mask: then all copies stay the same, and whatever is beside it makes no difference."""


@dataclass(frozen=True)
class AdapterOptions:
    """How a LoRA is trained.

    Attributes:
        rank: of its matrices.
        alpha: their product is multiplied by this, divided by the rank.
        layers: a key of `names.LAYERS`.
        seed: of their first values, and of what is dropped.
        dora: the length of each row of a weight is trained apart from its direction.
        dropout: share of a layer's inputs that its adapter does not see in training.
        visits: those of the batch that is being trained.
    """

    rank: int
    alpha: float
    layers: str
    seed: int
    dora: bool = False
    dropout: float = 0.0
    visits: BatchVisits = field(default_factory=BatchVisits)


def add_adapter(name: str, network: nn.Module, options: AdapterOptions) -> None:
    """Freeze a network and add adapters to its layers, in fp32 whatever the network is in.

    The second matrix of each is zero, so that the network computes what it did. Source: Hu et al. 2021,
    arXiv:2106.09685, section 4.1; of DoRA Liu et al. 2024, arXiv:2402.09353, section 4.

    Args:
        name: of the network.
        network: of diffusers or transformers; changed in place.
        options: how it is trained.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes a second, and most runs do without

    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    layers = sorted(carrying(shapes, options.layers))
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=layers, use_dora=options.dora)
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(int(rng(options.seed, "lora", name).integers(2**63)))
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for key, parameter in network.named_parameters():
        if f".{ADAPTER}." in key:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    for layer in layers:
        adapted: Any = network.get_submodule(layer)
        if options.dora:
            _measure(adapted)
        if options.dropout:
            dropout = VisitDropout(options.dropout, options.seed, f"{name}.{layer}", options.visits)
            adapted.lora_dropout[ADAPTER] = dropout


def _measure(layer: Any) -> None:
    """Set the magnitudes to the lengths of the weight's rows; peft's are rounded to the precision of the weight."""
    magnitude, weight = layer.lora_magnitude_vector[ADAPTER].weight, layer.get_base_layer().weight
    magnitude.data = torch.linalg.vector_norm(weight.data.float().flatten(1), dim=1).view_as(magnitude)


class VisitDropout(nn.Module):
    """Zeroes numbers at random in training, and scales the others so that the mean stays.

    Its masks are a function of the image's visit and the layer. That of PyTorch draws from one generator for all: a
    resume, gradient checkpointing, or a batch split after running out of memory would change what is dropped.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """

    def __init__(self, probability: float, seed: int, layer: str, visits: BatchVisits) -> None:
        """Drop for one layer.

        Args:
            probability: of a number to be zeroed.
            seed: of the run.
            layer: its name, with that of its network.
            visits: those of the batch that is being trained.
        """
        super().__init__()
        self.probability, self._seed, self._layer, self._visits = probability, seed, layer, visits

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs of a layer, (rows, ...), some of them zeroed; as they are outside training."""
        if not self.training or not self.probability:
            return inputs
        keys, device = self._visits.keys(len(inputs)), inputs.device
        shape = tuple(inputs.shape[1:])

        def draw() -> Tensor:
            return torch.stack([self._mask_of(key, shape, device) for key in keys])

        return _Dropped.apply(inputs, draw, 1 - self.probability)

    def _mask_of(self, key: RowKey, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """What is zeroed of one row, which has this shape."""
        generator = device_rng(device, self._seed, "lora dropout", self._layer, *key)
        if self._layer.endswith(READS_CAPTIONS) and shape[0] % CONTEXT_LENGTH == 0:
            chunk = _random_mask(self.probability, (CONTEXT_LENGTH, *shape[1:]), generator)
            return chunk.repeat(shape[0] // CONTEXT_LENGTH, *(1 for _ in shape[1:]))
        return _random_mask(self.probability, shape, generator)


class _Dropped(torch.autograd.Function):
    """Draws its mask again in the backward pass instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, draw: Callable[[], Tensor], kept: float) -> Tensor:
        ctx.draw, ctx.kept = draw, kept
        return _zeroed(inputs, draw(), kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _zeroed(gradients[0], ctx.draw(), ctx.kept), None, None


def _zeroed(numbers: Tensor, mask: Tensor, kept: float) -> Tensor:
    return numbers.masked_fill(mask, 0).mul_(1 / kept if kept else 0.0)


def _random_mask(probability: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """True with this probability, rounded to 16 bits."""
    draws = random_int16(torch.Size(shape).numel(), generator)
    highest = max(1, round(probability * RANGE)) - RANGE // 2 - 1
    return (draws <= highest).view(shape)
