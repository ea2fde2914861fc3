"""What is said of batches that the images do not fill."""

from pathlib import Path

from ed2.data.buckets import Size
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Example
from ed2.data.report import batch_notes


def notes(batch_size: int, *counts: int) -> list[str]:
    sizes: list[Size] = [(64, 64), (80, 48), (48, 80), (96, 32)]
    examples = [
        Example(Path(f"{size}-{number}.png"), 0, f"{size}-{number}.png", "", size, size)
        for size, count in zip(sizes, counts, strict=False)
        for number in range(count)
    ]
    return batch_notes(EpochPlanner(examples, seed=1, batch_size=batch_size, grad_accum=1))


def test_mostly_empty_batches_are_reported_with_a_better_size() -> None:
    (text,) = notes(8, 9, 3, 2, 2)  # five batches: 8, 1, 3, 2 and 2
    assert text.startswith("Batches hold 3.2 of 8 images on average")
    assert "lower batch_size to 3 " in text
    assert notes(3, 9, 3, 2, 2) == []


def test_full_batches_and_a_few_short_ones_are_not_reported() -> None:
    assert notes(4, 8, 8, 8) == []
    assert notes(4, 41, 30, 22, 5) == []
    assert notes(1, 1, 1, 1) == []
    assert notes(4) == []


def test_a_batch_larger_than_the_dataset_is_reported() -> None:
    assert "lower batch_size to 6 " in notes(8, 5)[0]
