"""Stochastic rounding: weights in bf16 that move as far, on average, as weights in fp32 would.

A bf16 number has 8 significant bits, so an update of less than 1/512 of a weight would always be rounded away. Rounded
up or down at random, with the probability of being nearer, it is kept on average.
Source: Gupta et al. 2015, arXiv:1502.02551; Zamirai et al. 2020, arXiv:2010.06192.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.models.device_draws import device_rng, random_int16

HALF_RANGE = 2**15


@dataclass(frozen=True)
class Rounding:
    """The stochastic rounding of a run.

    Attributes:
        seed: of the run.
        names: name of each trained parameter, with its network. Bits depend on it, not on the order of parameters.
    """

    seed: int
    names: Mapping[Tensor, str]

    def rounded(self, parameter: Tensor, exact: Tensor, update: int) -> Tensor:
        """`exact` in bf16; the bits are a function of the seed, the number of the update and the parameter's name.

        Args:
            parameter: whose new value it is; names the bits.
            exact: the new value in fp32; its memory is overwritten.
            update: number of the update.
        """
        generator = device_rng(exact.device, self.seed, "rounding", update, self.names[parameter])
        return round_stochastically(exact, generator)


def round_stochastically(exact: Tensor, generator: torch.Generator) -> Tensor:
    """`exact` (fp32, any shape) in bf16, each number rounded up or down at random.

    The probability of rounding up is the distance from the lower neighbour, as a share of the gap between the two.

    One core of a CPU takes about 3 ns per number, and 30 us per tensor: about as long as three passes of AdamW.

    The memory of `exact` is overwritten. Numbers that bf16 can hold, and infinite ones, stay as they are.
    """
    if not is_dense(exact):
        exact = exact.contiguous()
    count = exact.numel()
    flat = exact.as_strided((count,), (1,))
    # The lower 16 bits of an fp32 number are what bf16 drops. Adding a draw from 0 to 65535 carries over in exactly
    # their share of all cases; the upper 16 bits are then the rounded number.
    flat.view(torch.int32).add_(random_int16(count, generator)).add_(HALF_RANGE)
    upper = flat.view(torch.bfloat16)[1::2]  # the second half of each number on little-endian machines
    return upper.clone().as_strided(exact.shape, exact.stride())


def is_dense(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor fill their memory, in whatever order."""
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
