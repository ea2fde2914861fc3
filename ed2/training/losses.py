"""Losses: how far a prediction is from its target, per image.

Every loss takes `prediction` and `target` of shape (B,C,h,w) and `position`, shape (B,): 0 for the timestep of least
noise, 1 for that of most. The result has one number per image, shape (B,), in fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HUBER_DELTA = 1.0
"""Smaller errors count quadratically, larger ones linearly."""


def mse(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Mean squared error.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 14.
    """
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def huber(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Huber's loss, less sensitive to outliers: half the square of an error up to 1, beyond that |error| - 0.5.

    Source: Huber 1964, "Robust estimation of a location parameter", equation 1.6.
    """
    losses = F.huber_loss(prediction.float(), target.float(), reduction="none", delta=HUBER_DELTA)
    return losses.mean(dim=(1, 2, 3))


def mse_huber(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """MSE at timestep 0, Huber's loss at the last, a mixture by `position` between."""
    return torch.lerp(mse(prediction, target, position), huber(prediction, target, position), position)


def huber_mse(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Huber's loss at timestep 0, MSE at the last, a mixture by `position` between."""
    return torch.lerp(huber(prediction, target, position), mse(prediction, target, position), position)
