"""The bytes of a tensor, for hashes, files and messages."""

import torch
from torch import Tensor


def bytes_in(tensor: Tensor) -> Tensor:
    """The bytes of a tensor in the order of its numbers, (N,), uint8, on its device; not a copy if it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
