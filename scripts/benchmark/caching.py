"""The pass that fills a latent cache beside decoding and encoding with nothing around it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.benchmark.fixtures import settings
from scripts.benchmark.rows import Row, Size, cpu_seconds


class _PassTime:
    """Listens to a run: takes the CPU time from its first event to its first step, and stops it."""

    def __init__(self) -> None:
        from ed2.training.controls import Controls

        self.controls, self.seconds, self._started = Controls(), 0.0, 0.0

    def __call__(self, event: object) -> None:
        from ed2.events import PhaseChanged, RunStarted

        if isinstance(event, RunStarted):
            self._started = time.process_time()
        elif isinstance(event, PhaseChanged) and event.phase == "training":
            self.seconds = time.process_time() - self._started
            self.controls.stop(save=False)


def fill_row(folder: Path, size: Size) -> Row:
    """Fill a cache with one crop of each image, and decode and encode as many with nothing around it, by turns."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "base" / "vae").eval().to(memory_format=torch.channels_last)
    ours, bare = [], []
    for _ in range(size.rounds + 1):  # the first warms up
        shutil.rmtree(folder / "cache", ignore_errors=True)
        ours.append(_fill(folder, size))
        bare.append(cpu_seconds(lambda: _decode_and_encode(vae, folder, size)))
    what = "pass that fills the latent cache / bare decode and encode"
    return Row.of(what, "CPU s", ours[1:], bare[1:], goal=1.1)


def _fill(folder: Path, size: Size) -> float:
    from ed2.app.run import run_training
    from ed2.events import EventBus

    listener = _PassTime()
    values = settings(folder, resolution=size.resolution, cache_latents=True, cache_variants=1)
    values |= {"cache_dir": str(folder / "cache"), "decode_threads": 1}
    run_training(values, None, bus=EventBus([listener]), controls=listener.controls)
    return listener.seconds


def _decode_and_encode(vae: Any, folder: Path, size: Size) -> None:
    """Pillow's decoder and one Lanczos resize for each image, and the VAE, one image at a time."""
    import torch

    with torch.no_grad():
        for pixels in _decoded(folder / "images", size.resolution):
            vae.encode(pixels).latent_dist.parameters.float()


def _decoded(images: Path, resolution: int) -> Iterator[Any]:
    import numpy as np
    import torch
    from PIL import Image

    for path in sorted(images.glob("*.jpg")):
        with Image.open(path) as image:
            image.draft("RGB", (resolution, resolution))
            small = image.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
        yield torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
