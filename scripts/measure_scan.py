"""Measure how long it takes to scan a large dataset and plan an epoch, and how much memory an image takes.

    python scripts/measure_scan.py [number of images]

Writes small images, all different, with captions into a temporary folder. Scans them by their headers, then in full,
then once more (which finds the results of the previous scan), and plans one epoch. Then it measures how long a
photograph of 3 megapixels takes by its header and in full, in each of three formats.
"""

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from ed2.data.epoch import EpochPlanner  # noqa: E402
from ed2.data.folder import ScanOptions, scan  # noqa: E402
from ed2.data.images import check_image, read_header_facts  # noqa: E402

PER_FOLDER = 500
SIZES = ((96, 64), (64, 96), (80, 80), (120, 64))


def write_images(root: Path, count: int) -> None:
    """Write `count` images in folders of 500, no two alike, each with a caption of seven tags."""
    generator = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"{number // PER_FOLDER:03d}"
        if number % PER_FOLDER == 0:
            folder.mkdir()
            (folder / "multiply.txt").write_text("0.5")
        smooth = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth.resize(SIZES[number % len(SIZES)]).save(folder / f"{number:06d}.jpg")
        tags = ", ".join(f"tag {(number * step) % 997}" for step in range(1, 8))
        (folder / f"{number:06d}.txt").write_text(f"image number {number}, {tags}")


def main(count: int) -> None:
    """Print the measured figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        root.mkdir()
        write_images(root, count)
        options = ScanOptions(resolution=64, shuffle_tags=True, index_path=Path(folder) / "index.json", threads=2)
        for name, how in (
            ("by headers", replace(options, headers_only=True)),
            ("first scan, every image read in full", options),
            ("second scan, results remembered", options),
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            dataset = scan([root], how)
            print(f"{name}: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")
        tracemalloc.start()
        dataset = scan([root], options)
        print(f"memory: {tracemalloc.get_traced_memory()[0] / count:.0f} bytes per image")
        tracemalloc.stop()
        cpu = time.process_time()
        planner = EpochPlanner(dataset.examples, seed=555, batch_size=4, grad_accum=2)
        planner.plan(0)
        print(f"planning an epoch: {time.process_time() - cpu:.2f} s of CPU")
    measure_photographs()


def measure_photographs() -> None:
    """Print how long one photograph of 2000 x 1500 takes, made of smooth noise with grain."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (150, 200, 3), dtype=np.uint8)).resize((2000, 1500))
    grain = generator.normal(0, 8, (1500, 2000, 3))
    photograph = Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("jpg", "png", "webp"):
            path = Path(folder) / f"photograph.{name}"
            photograph.save(path, quality=90)
            taken = [_milliseconds(read, path) for read in (read_header_facts, check_image)]
            print(f"a photograph as {name}: {taken[0]:.2f} ms of CPU by its header, {taken[1]:.0f} ms in full")


def _milliseconds(read: Callable[[Path], object], path: Path, times: int = 5) -> float:
    began = time.process_time()
    for _ in range(times):
        read(path)
    return (time.process_time() - began) * 1000 / times


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
