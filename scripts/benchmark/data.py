"""The data side: scanning, planning, decoding, checking."""

from __future__ import annotations

import io
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import ExifTags, Image

from ed2.data.buckets import crop_box
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Example
from ed2.data.fingerprint import quick_fingerprint
from ed2.data.folder import ScanOptions, scan
from ed2.data.full_reads import FullReads
from ed2.data.pixels import LoaderOptions, load_image
from ed2.data.scan_cache import SETTLED_NS
from ed2.data.variants import VisitKey
from scripts.benchmark.fixtures import PHOTOGRAPHS, make_small_images, photograph
from scripts.benchmark.rows import Row, Size, cpu_seconds

ORIGINAL_SCAN = 3.04
"""The original's scan in bare scans, when both were measured on one machine; the goals are shares of the original's."""
ORIGINAL_DECODE = {"JPEG": 1.15, "PNG": 1.15}
"""The original's images per CPU second in bare decodes, likewise."""
BUCKET = (512, 512)
NUM_DIFFERENT = 8


def data_rows(folder: Path, size: Size) -> list[Row]:
    """Everything but the training."""
    return [*_scan_rows(folder, size), *_start_rows(folder, size), _plan_row(size), *_decode_rows(folder, size)]


def _scan_rows(folder: Path, size: Size) -> list[Row]:
    root, index = make_small_images(folder / "small", size.scanned_images), folder / "index.json"
    time.sleep(SETTLED_NS / 1e9)  # what was written just now is not remembered
    full = ScanOptions(resolution=64, shuffle_tags=True, index_path=index, threads=1)
    bare, headers, first, again = [], [], [], []
    for _ in range(size.rounds):
        index.unlink(missing_ok=True)
        shutil.rmtree(folder / "scans", ignore_errors=True)
        bare.append(cpu_seconds(lambda: _bare_scan(root)))
        headers.append(cpu_seconds(lambda: scan([root], replace(full, headers_only=True))))
        first.append(cpu_seconds(lambda: scan([root], full)))
        again.append(cpu_seconds(lambda: scan([root], full)))
    tracemalloc.start()
    kept = scan([root], full)
    memory = tracemalloc.get_traced_memory()[0] / len(kept.examples)
    tracemalloc.stop()
    name, unit = f"scan of {size.scanned_images:,} JPEG", "CPU s"
    return [
        Row.of(f"{name} by their headers / bare", unit, headers, bare, goal=_share(0.35)),
        Row.of(f"{name} in full / bare", unit, first, bare),
        Row.of(f"{name} again, with the index / bare", unit, again, bare, goal=_share(0.10)),
        Row.of("memory of a scanned image", "bytes", [memory]),
    ]


def _start_rows(folder: Path, size: Size) -> list[Row]:
    """What a run reads of new photographs before its first step, and what their first decoding then takes more."""
    root = _make_photographs(folder / "new", size.started_images)
    index = folder / "new.json"
    options = ScanOptions(resolution=512, index_path=index, threads=1)
    starts, full, first, later = [], [], [], []
    for _ in range(size.rounds):
        index.unlink(missing_ok=True)
        shutil.rmtree(folder / "scans", ignore_errors=True)
        starts.append(cpu_seconds(lambda: _start(root, options)))
        examples = scan([root], replace(options, headers_only=True)).examples[: size.photographs * 4]
        later.append(cpu_seconds(lambda own=examples: _load_all(own, None)))
        first.append(cpu_seconds(lambda own=examples: _load_all(own, FullReads(index))))
        full.append(cpu_seconds(lambda: scan([root], options)))
    shutil.rmtree(root)
    name = f"{size.started_images:,} new photographs of 2 megapixels"
    return [
        Row.of(f"start with {name} / a full read of them", "CPU s", starts, full),
        Row.of("first decode of such a photograph, checked and hashed / decode", "CPU s", first, later),
    ]


def _start(root: Path, options: ScanOptions) -> None:
    quick_fingerprint(scan([root], replace(options, headers_only=True)).examples, options.threads)


def _load_all(examples: Sequence[Example], reads: FullReads | None) -> None:
    options = LoaderOptions(seed=1, batch_size=1, reads=reads)
    for example in examples:
        load_image(example, VisitKey(0, example.key, 0), options)


def _make_photographs(folder: Path, count: int) -> Path:
    """Write JPEGs of 2 megapixels, no two of them alike: a few, with another end each."""
    folder.mkdir()
    some = []
    for seed in range(min(count, NUM_DIFFERENT)):
        content = io.BytesIO()
        photograph((1600, 1250), seed).save(content, "JPEG", quality=90)
        some.append(content.getvalue())
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(some[number % len(some)] + number.to_bytes(4, "big"))
    return folder


def _share(of_original: float) -> float:
    """A share of the original's scan in bare scans."""
    return round(of_original * ORIGINAL_SCAN, 2)


def _bare_scan(root: Path) -> None:
    """The least that Pillow needs: walk, stat, size and orientation of each image, and the bytes of its caption."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            if name.endswith(".jpg"):
                os.stat(path)  # noqa: PTH116
                with Image.open(path) as image:
                    image.getexif().get(ExifTags.Base.Orientation)
                with open(path[:-3] + "txt", encoding="utf-8") as caption:  # noqa: PTH123
                    caption.read()


def _plan_row(size: Size) -> Row:
    buckets = ((512, 512), (576, 448), (448, 576), (640, 384), (384, 640))
    examples = [
        Example(
            Path(f"{number}.jpg"),
            0,
            f"{number // 500}/{number}.jpg",
            "",
            (640, 640),
            buckets[number % 5],
            multiply=0.5 if number % 3 else 2.0,
        )
        for number in range(size.planned_images)
    ]
    planner = EpochPlanner(examples, seed=555, batch_size=4, grad_accum=2)
    taken = [cpu_seconds(lambda epoch=epoch: planner.plan(epoch)) for epoch in range(size.rounds)]
    return Row.of(f"plan of an epoch, {size.planned_images:,} images", "CPU s", taken, goal=0.1)


def _decode_rows(folder: Path, size: Size) -> list[Row]:
    (folder / "photographs").mkdir()
    rows = []
    for kind, goal in (("JPEG", 1.98), ("PNG", 1.5)):
        examples = []
        for number in range(size.photographs):
            path = folder / "photographs" / f"{number}.{kind.lower()}"
            image = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)], number)
            image.save(path, quality=90) if kind == "JPEG" else image.save(path)
            examples.append(Example(path, 0, path.name, "", image.size, BUCKET))
        ours, bare = [], []
        for _ in range(size.rounds):
            bare.append(_per_second(_bare_decode, examples))
            ours.append(_per_second(_our_decode, examples))
        wanted = round(goal * ORIGINAL_DECODE[kind], 2)
        what = f"decode {kind} to a 512 bucket / bare"
        rows.append(Row.of(what, "images per CPU s", ours, bare, goal=wanted, more_is_better=True))
    return rows


def _per_second(decode: Callable[[Example], object], examples: list[Example]) -> float:
    return len(examples) / cpu_seconds(lambda: [decode(example) for example in examples])


def _our_decode(example: Example) -> None:
    load_image(example, VisitKey(0, example.key, 0), LoaderOptions(seed=1, batch_size=1))


def _bare_decode(example: Example) -> None:
    """All pixels by Pillow, cropped and resized in one go."""
    with Image.open(example.path) as image:
        box = crop_box(example.size, BUCKET)
        image.convert("RGB").resize(BUCKET, Image.Resampling.LANCZOS, box=box)
