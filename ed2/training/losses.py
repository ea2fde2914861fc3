"""Losses: how far a prediction is from its target, per picture."""

import torch.nn.functional as F
from torch import Tensor


def mse(prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
    """Mean squared error in fp32, shape (B,).

    Source: Ho et al. 2020, arXiv:2006.11239, equation 14.
    """
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
