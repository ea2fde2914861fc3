"""How long processes wait for each other, by a simulation of the plan of an epoch, and what fits on their GPUs.

    scripts/rank_plan.py [--images 20000] [--batch_size 4] [--grad_accum 1]
    scripts/rank_plan.py --memory
    scripts/rank_plan.py --speed [--epochs 24] [--batch_size 4]

The time of a batch is taken to grow with its pixels, and a step to end with its slowest process. What all processes do
alike, the sum of gradients and the update, is left out: with it, the share of a step that is spent waiting is smaller.
What fits is what the memory plan says of the UNet of SDXL at 1024, in bf16 with gradient checkpointing and caches.
The speed is measured: the demo's model, trained in one process and in two on this machine's CPU, one computing thread
each. Where other programs use the CPU too, only the processor time says something.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ed2.app.reporters.jsonl import read_events
from ed2.app.user_files import preset_values
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.data.buckets import nearest_bucket
from ed2.data.dealing import cost, deal
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Example
from ed2.events import MetricsLogged
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.memory_options import Search
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


def idle_of_epoch(examples: list[Example], *, batch_size: int, size: int, grad_accum: int = 1) -> float:
    """The share of the time of an epoch's batches in which processes wait for the slowest of their step."""
    plan = EpochPlanner(examples, seed=555, batch_size=batch_size, grad_accum=size * grad_accum).plan(0)
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
MOST_PROCESSES = 2


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


def trained(size: int, epochs: int, batch_size: int) -> tuple[float, float]:
    """A run of the demo in `size` processes, with the same images in each step: images per second, processor time."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"logdir": folder, "log_step": 1, "max_epochs": epochs, "batch_size": batch_size, "no_save_ckpt": True}
        own |= {"num_processes": size, "grad_accum": MOST_PROCESSES // size, "sample_prompts": ""}
        config = Path(folder) / "settings.json"
        config.write_text(json.dumps({**preset_values(PROGRAM_DIR / "presets" / "demo.json"), **own}), encoding="utf-8")
        command = [sys.executable, str(PROGRAM_DIR / "train.py"), "--config", str(config)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=PROGRAM_DIR, env=environment, check=True, stdout=subprocess.DEVNULL)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        [run_dir] = Path(folder).glob("demo_*")
        logged = [event for _, event in read_events(run_dir) if isinstance(event, MetricsLogged)]
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return statistics.median(event.values[IMAGES_PER_SECOND] for event in logged), seconds


def print_speed(epochs: int, batch_size: int) -> None:
    """Print how fast one and two processes are, and what they compute for an image besides starting."""
    print("processes  images/s  of that many  processor ms/image")
    alone = 0.0
    for size in range(1, MOST_PROCESSES + 1):
        _, least = trained(size, 1, batch_size)
        speed, most = trained(size, 1 + epochs, batch_size)
        alone = alone or speed
        images = epochs * len(list((PROGRAM_DIR / "ed2" / "demo" / "pictures").glob("*.png")))
        print(
            f"{size:9}  {speed:8.1f}  {speed / size / alone:12.0%}  {1000 * (most - least) / images:18.0f}", flush=True
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--grad_accum", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="print what fits")
    parser.add_argument("--speed", action="store_true", help="measure how fast several processes are")
    parser.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    if options.speed:
        print_speed(options.epochs, options.batch_size)
        return
    if options.memory:
        print_largest_batches()
        return
    print("resolution  processes  waiting")
    for resolution in (512, 768, 1024):
        examples = photos(options.images, resolution)
        for size in (2, 4, 8):
            accumulated = {"batch_size": options.batch_size, "grad_accum": options.grad_accum}
            share = idle_of_epoch(examples, size=size, **accumulated)
            print(f"{resolution:10}  {size:9}  {share:7.1%}")


if __name__ == "__main__":
    main()
