"""Measure how long a large dataset takes to scan and to deal, and what a picture takes in memory.

    python scripts/measure_scan.py [pictures]

Writes small pictures with captions into a temporary folder, scans them twice (the second scan finds the results of the
first), and deals one epoch.
"""

import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from ed2.data.epoch import Planner  # noqa: E402
from ed2.data.folder import ScanOptions, scan  # noqa: E402

PER_FOLDER = 500
SIZES = ((96, 64), (64, 96), (80, 80), (120, 64))


def write_pictures(root: Path, count: int) -> None:
    """Write `count` pictures in folders of 500, each with a caption of seven tags."""
    content = {size: _jpeg(root, size) for size in SIZES}
    for number in range(count):
        folder = root / f"{number // PER_FOLDER:03d}"
        if number % PER_FOLDER == 0:
            folder.mkdir()
            (folder / "multiply.txt").write_text("0.5")
        (folder / f"{number:06d}.jpg").write_bytes(content[SIZES[number % len(SIZES)]])
        tags = ", ".join(f"tag {(number * step) % 997}" for step in range(1, 8))
        (folder / f"{number:06d}.txt").write_text(f"picture number {number}, {tags}")


def _jpeg(root: Path, size: tuple[int, int]) -> bytes:
    path = root / "template.jpg"
    Image.new("RGB", size, "teal").save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def main(count: int) -> None:
    """Print the measured figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pictures"
        root.mkdir()
        write_pictures(root, count)
        options = ScanOptions(resolution=64, shuffle_tags=True, index_path=Path(folder) / "index.json", threads=2)
        for name in ("first scan, every picture read in full", "second scan, results remembered"):
            wall, cpu = time.perf_counter(), time.process_time()
            dataset = scan([root], options)
            print(f"{name}: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")
        tracemalloc.start()
        dataset = scan([root], options)
        print(f"memory that stays: {tracemalloc.get_traced_memory()[0] / count:.0f} bytes a picture")
        tracemalloc.stop()
        cpu = time.process_time()
        planner = Planner(dataset.examples, seed=555, batch_size=4, grad_accum=2)
        planner.plan(0)
        print(f"an epoch dealt: {time.process_time() - cpu:.2f} s of CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
