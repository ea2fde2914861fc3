"""How long processes wait for each other, by a simulation of the plan of an epoch, and what fits on their GPUs.

    scripts/rank_plan.py [--images 20000] [--batch_size 4]
    scripts/rank_plan.py --memory

The time of a batch is taken to grow with its pixels, and a step to end with its slowest process. What all processes do
alike, the sum of gradients and the update, is left out: with it, the share of a step that is spent waiting is smaller.
What fits is what the memory plan says of the UNet of SDXL at 1024, in bf16 with gradient checkpointing and caches.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ed2.data.buckets import nearest_bucket
from ed2.data.dealing import cost, deal
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Example
from ed2.settings.schema import Settings
from ed2.vram.advice import Search
from ed2.vram.card import Card
from ed2.vram.shapes import shape_of

SHAPES = ((3 / 2, 0.28), (2 / 3, 0.17), (4 / 3, 0.15), (3 / 4, 0.10), (1.0, 0.12), (16 / 9, 0.07), (9 / 16, 0.04))
"""Ratios of photos and their share in a mixed collection; the rest has any ratio."""
SIDE = 2000


def photos(count: int, resolution: int) -> list[Example]:
    """Images of the shapes that cameras and phones have, some of them cropped to any other."""
    generator = np.random.default_rng(0)
    shares = [share for _, share in SHAPES]
    kinds = generator.choice(len(SHAPES) + 1, count, p=[*shares, 1 - sum(shares)])
    examples = []
    for number, kind in enumerate(kinds.tolist()):
        ratio = SHAPES[kind][0] if kind < len(SHAPES) else math.exp(generator.normal(0, 0.5))
        ratio = min(4.0, max(0.25, ratio))
        size = (round(SIDE * math.sqrt(ratio)), round(SIDE / math.sqrt(ratio)))
        name = f"{number}.jpg"
        examples.append(Example(Path(name), 0, name, "", size, nearest_bucket(size, resolution)))
    return examples


def idle_of_epoch(examples: list[Example], *, batch_size: int, size: int) -> float:
    """The share of the time of an epoch's batches in which processes wait for the slowest of their step."""
    plan = EpochPlanner(examples, seed=555, batch_size=batch_size, grad_accum=size).plan(0)
    busy = taken = 0
    for batches in plan:
        loads = [0] * size
        for batch, rank in deal(batches, size):
            loads[rank] += cost(batch)
        busy += sum(loads)
        taken += size * max(loads)
    return 1 - busy / taken


SDXL = {
    "resolution": 1024,
    "amp": True,
    "weights_dtype": "bf16",
    "gradient_checkpointing": True,
    "disable_textenc_training": True,
    "cache_latents": True,
    "cache_text": True,
}
LOW_MEMORY = ("adafactor", "lion8bit", "adamw8bit", "adamw")
MOST = 16


def print_largest_batches() -> None:
    """Print the largest batch per process of SDXL that fits on each of one or two cards."""
    cards = [(number, size) for size in (12, 16) for number in (1, 2)]
    print("optimizer  updates in the backward pass  " + "  ".join(f"{number} x {size} GB" for number, size in cards))
    for optimizer in LOW_MEMORY:
        for fused in (False, True):
            given = Settings().replaced(**SDXL, optimizer=optimizer, fused_backward=fused)
            found = []
            for number, size in cards:
                search = Search(shape_of("sdxl"), Card.of_size(size))
                found.append(search.largest_batch(given.replaced(num_processes=number), MOST) or "-")
            print(f"{optimizer:9}  {fused!s:28}  " + "  ".join(f"{batch!s:>9}" for batch in found))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--memory", action="store_true", help="print what fits")
    options = parser.parse_args()
    if options.memory:
        print_largest_batches()
        return
    print("resolution  processes  waiting")
    for resolution in (512, 768, 1024):
        examples = photos(options.images, resolution)
        for size in (2, 4, 8):
            share = idle_of_epoch(examples, batch_size=options.batch_size, size=size)
            print(f"{resolution:10}  {size:9}  {share:7.1%}")


if __name__ == "__main__":
    main()
