"""Noise: what it is made of, and that nothing depends on the batch."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ed2.data.variants import VisitKey
from ed2.draws import rng
from ed2.training.objective import ObjectiveOptions, training_noise

SHAPE = (4, 12, 16)
SEED = 7


def visits(count: int) -> list[VisitKey]:
    return [VisitKey(1, f"{number}.png", 0) for number in range(count)]


def noise(count: int = 3, **options: float) -> Tensor:
    return training_noise(SEED, visits(count), SHAPE, ObjectiveOptions(**options))


def plain(visit: VisitKey) -> Tensor:
    return torch.from_numpy(rng(SEED, "noise", *visit).standard_normal(SHAPE, dtype=np.float32))


def test_without_options_it_is_plain_noise() -> None:
    assert torch.equal(noise(), torch.stack([plain(visit) for visit in visits(3)]))


def test_offset_noise_shifts_each_channel_by_its_own_number() -> None:
    shift = noise(noise_offset=0.1) - noise()
    assert torch.allclose(shift, shift[..., :1, :1].expand_as(shift), atol=1e-6)
    assert len(set(shift[..., 0, 0].flatten().tolist())) == 12
    many = training_noise(SEED, visits(400), (4, 1, 1), ObjectiveOptions(noise_offset=0.1)) - training_noise(
        SEED, visits(400), (4, 1, 1), ObjectiveOptions()
    )
    assert abs(float(many.std()) - 0.1) < 0.01


def test_pyramid_noise_equals_its_description_level_by_level() -> None:
    visit = visits(1)[0]
    generator = rng(SEED, "pyramid", *visit)
    total, height, width = plain(visit), SHAPE[1], SHAPE[2]
    for level in range(10):
        ratio = generator.random() * 2 + 2
        height, width = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.from_numpy(generator.standard_normal((1, 4, height, width), dtype=np.float32))
        total = total + 0.5**level * F.interpolate(coarse, SHAPE[1:], mode="bilinear")[0]
        if height == 1 or width == 1:
            break
    expected = total / ((total - total.mean()) ** 2).sum().div(total.numel() - 1).sqrt()
    assert torch.allclose(noise(1, pyramid_discount=0.5)[0], expected, atol=1e-5)


def test_pyramid_noise_has_a_deviation_of_one_in_every_image_and_more_of_it_in_low_frequencies() -> None:
    mixed = noise(8, pyramid_discount=0.8)
    assert torch.allclose(mixed.std(dim=(1, 2, 3)), torch.ones(8), atol=1e-5)
    assert float(F.avg_pool2d(mixed, 4).std()) > 1.5 * float(F.avg_pool2d(noise(8), 4).std())


def test_an_image_gets_the_same_noise_alone_and_in_a_batch() -> None:
    options = {"pyramid_discount": 0.3, "noise_offset": 0.05}
    assert torch.equal(noise(4, **options)[:1], noise(1, **options))
