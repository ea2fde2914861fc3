"""Whether weights can be those of a trained network: finite, and not the zeros of a file that was never filled."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MAX_ZERO_SHARE = 0.05
"""Of the matrices of a part. A trained network has none that is zero from end to end; some merges leave a few."""


def weights_fault(tensors: Mapping[str, Tensor]) -> str:
    """Say what is wrong with the weights of a part, without the full stop; empty where they are sound."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    # A sum costs one reading; only where it is not finite, or zero, is there something to look at closer.
    sums = {name: float(tensor.sum(dtype=torch.float32)) for name, tensor in floating.items()}
    odd = [name for name, total in sums.items() if not math.isfinite(total)]
    broken = [name for name in odd if not bool(torch.isfinite(floating[name]).all())]
    if broken:
        return f"there are numbers that are not finite (NaN or infinity) in {counted(broken)}"
    matrices = {name: tensor for name, tensor in floating.items() if tensor.ndim > 1}
    zero = [name for name, tensor in matrices.items() if sums[name] == 0 and not bool(tensor.any())]
    if len(zero) > MAX_ZERO_SHARE * len(matrices):
        return f"there is nothing but zeros in {counted(zero)}"
    return ""


def counted(names: Sequence[str]) -> str:
    """How many tensors, with the first as an example."""
    return f"{len(names)} of its tensors, such as {names[0]}" if len(names) > 1 else f"its tensor {names[0]}"
