"""Losses and weights against plain loops over single numbers, and values from the papers."""

import pytest
import torch
from torch import Tensor

from ed2.models.process import min_snr_weights
from ed2.registry import LOSSES
from ed2.training.objective import huber, huber_mse, mse, mse_huber

SHAPE = (3, 2, 2, 2)
POSITION = torch.tensor([0.0, 0.25, 1.0])


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def plain_huber(error: float) -> float:
    return 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5


def mean_of(formula, prediction: Tensor, target: Tensor) -> list[float]:
    errors = [(p - t).flatten().tolist() for p, t in zip(prediction, target, strict=True)]
    return [sum(map(formula, image)) / len(image) for image in errors]


def test_mse_and_huber_equal_plain_loops() -> None:
    prediction, target = pair()
    assert mse(prediction, target, POSITION).tolist() == pytest.approx(mean_of(lambda e: e * e, prediction, target))
    assert huber(prediction, target, POSITION).tolist() == pytest.approx(mean_of(plain_huber, prediction, target))


def test_mixed_losses_are_the_first_at_timestep_zero_and_the_second_at_the_last() -> None:
    prediction, target = pair()
    squares, hubers = mse(prediction, target, POSITION), huber(prediction, target, POSITION)
    mixed = mse_huber(prediction, target, POSITION)
    assert mixed[0] == squares[0]
    assert float(mixed[1]) == pytest.approx(float(0.75 * squares[1] + 0.25 * hubers[1]))
    assert mixed[2] == hubers[2]
    assert torch.allclose(huber_mse(prediction, target, POSITION), squares + hubers - mixed)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_are_computed_in_full_precision(name: str) -> None:
    prediction, target = (tensor.to(torch.bfloat16) for tensor in pair())
    assert LOSSES.load(name)(prediction, target, POSITION).dtype == torch.float32


def test_min_snr_weights_have_the_values_of_the_paper() -> None:
    snr = torch.tensor([100.0, 5.0, 1.0, 0.01, 0.0])
    epsilon = [5 / 100, 1.0, 1.0, 1.0, 1.0]
    velocity = [5 / 101, 5 / 6, 1 / 2, 0.01 / 1.01, 0.0]
    assert min_snr_weights(snr, 5.0, "epsilon").tolist() == pytest.approx(epsilon)
    assert min_snr_weights(snr, 5.0, "v_prediction").tolist() == pytest.approx(velocity)


def test_min_snr_weights_the_image_error_equally_for_noise_and_velocity() -> None:
    """An error d of the image x0 is an error sqrt(SNR) d of the noise, and sqrt(SNR + 1) d of the velocity."""
    snr = torch.logspace(-3, 3, 30)
    by_noise = min_snr_weights(snr, 5.0, "epsilon") * snr
    by_velocity = min_snr_weights(snr, 5.0, "v_prediction") * (snr + 1)
    assert torch.allclose(by_noise, by_velocity)
    assert torch.allclose(by_noise, snr.clamp(max=5.0))
