"""Random draws on the device that computes, for those that are too many to be made on the CPU.

As in `ed2.draws`, each is a function of its key alone. A CPU and a GPU give different bits.
"""

import torch
from torch import Tensor

from ed2.draws import key_of


def device_rng(device: torch.device, seed: int, what: str, *key: int | str) -> torch.Generator:
    """The generator on `device` for one draw; the other arguments are those of `ed2.draws.rng`."""
    return torch.Generator(device).manual_seed(key_of(seed, what, *key) % 2**63)


def random_int16(count: int, generator: torch.Generator) -> Tensor:
    """Random numbers from all of int16, (count,), on the device of the generator.

    Four at a time: a word of 64 bits takes as long to draw as a shorter one.
    """
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
