"""Runs the variants one after the other in this process, through the same functions as `train.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ed2.app.checks.check import run_check
from ed2.app.run import run_training
from ed2.events import CheckpointSaved, Event, EventBus, RunEnded, SamplesMade, StepDone, Warned
from ed2.models.memory import release_memory
from ed2.training.controls import Controls
from scripts.gpu.bases import write_base, write_images
from scripts.gpu.variants import Variant

WARM_UP = 3
GB = 2**30
SAMPLE_PROMPT = "a photograph of a cat\n"


@dataclass(frozen=True)
class Bench:
    """Where the trainings run.

    Attributes:
        folder: for everything that is written.
        steps: how many are measured in each training.
        is_tiny: tiny models, for a computer without a GPU.
    """

    folder: Path
    device: torch.device
    steps: int
    is_tiny: bool

    def base(self, family: str) -> Path:
        """A random model, written when it is first asked for."""
        path = self.folder / family
        return path if path.exists() else write_base(path, family, is_tiny=self.is_tiny, device=self.device)

    def images(self, resolution: int) -> Path:
        """Images, likewise."""
        path = self.folder / f"images-{resolution}"
        return path if path.exists() else write_images(path, resolution)

    def settings(self, variant: Variant) -> dict[str, Any]:
        """The flat settings of a training."""
        prompts = self.folder / "prompts.txt"
        prompts.write_text(SAMPLE_PROMPT)
        return {
            "project_name": "gpu",
            "resume_ckpt": str(self.base(variant.family)),
            "data_root": [str(self.images(variant.resolution))],
            "resolution": variant.resolution,
            "batch_size": 2,
            "max_epochs": 1000,
            "seed": 1,
            "device": str(self.device),
            "ckpt_every_n_minutes": 0,
            "no_save_ckpt": True,
            "sample_prompts": str(prompts) if "sample" in variant.does else "",
            "sample_steps": 100_000,
            "logdir": str(self.folder / "logs"),
            "save_ckpt_dir": str(self.folder / "files"),
            "cache_dir": str(self.folder / "cache"),
            **variant.options,
        }


@dataclass
class Watch:
    """Listens to a run: the clock at each step, and how long the loop is blocked by a save and by samples."""

    device: torch.device
    steps: int
    asks: tuple[str, ...]
    controls: Controls = field(default_factory=Controls)
    at: list[float] = field(default_factory=list)
    found: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Note what an event says."""
        if isinstance(event, StepDone):
            self._step()
        elif isinstance(event, CheckpointSaved):
            self.found |= {"save_seconds": event.seconds, "save_gb": event.bytes_written / GB}
        elif isinstance(event, SamplesMade) and "sample" in self.asks and self.at:
            self.found["sample_seconds"] = event.seconds
        elif isinstance(event, Warned):
            self.warnings.append(event.text)

    def _step(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.at.append(time.perf_counter())
        past = len(self.at) - 1 - WARM_UP - self.steps
        if 0 <= past < len(self.asks):
            self.controls.ask(self.asks[past])  # type: ignore[arg-type]
        elif past >= len(self.asks):
            self.controls.stop(save=False)

    @property
    def step_seconds(self) -> float:
        """The median after the first steps."""
        measured = self.at[WARM_UP : WARM_UP + self.steps + 1]
        return median(later - before for before, later in pairwise(measured))

    def blocked(self) -> dict[str, float]:
        """How much longer than a step the loop took after each request."""
        first = WARM_UP + self.steps
        took = {name: self.at[first + n + 1] - self.at[first + n] for n, name in enumerate(self.asks)}
        return {f"{name}_blocks_seconds": max(0.0, seconds - self.step_seconds) for name, seconds in took.items()}


def measure(bench: Bench, variant: Variant) -> dict[str, Any]:
    """Train a variant; gives its row, with `failed` where it ended otherwise than asked."""
    row: dict[str, Any] = {"what": variant.name, "family": variant.family, "resolution": variant.resolution}
    watch = Watch(bench.device, bench.steps, variant.does)
    try:
        settings = bench.settings(variant)
        row["images_per_step"] = settings["batch_size"]
        with _capped(bench.device, variant.cap_gb) as card_gb:
            planned = run_check(settings, None, quiet=True, vram_gb=card_gb).memory.as_object()
            row |= {f"planned_{name}": planned[name] for name in ("expected_gb", "high_gb")}
            ended = run_training(settings, None, bus=EventBus([watch]), controls=watch.controls)
            row |= _peaks(bench.device)
    except Exception as error:  # of any kind, such as from a driver: the others are measured all the same
        return row | {"failed": f"{type(error).__name__}: {error}"}
    return row | _outcome(watch, ended)


def _outcome(watch: Watch, ended: RunEnded) -> dict[str, Any]:
    """The figures of a run; why it failed if it has not reached its last step."""
    if ended.phase != "stopped":
        return {"failed": ended.reason or ended.phase}
    row: dict[str, Any] = {"step_seconds": watch.step_seconds, **watch.blocked(), **watch.found}
    return row | ({"warnings": watch.warnings} if watch.warnings else {})


@contextmanager
def _capped(device: torch.device, cap_gb: int | None) -> Iterator[float]:
    """Let PyTorch use no more memory than a smaller card has; yields the GB to plan for. Resets the peaks."""
    if device.type != "cuda":
        yield float(cap_gb or 12)
        return
    total = torch.cuda.get_device_properties(device).total_memory
    release_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (cap_gb or 1e9) * GB / total), device)
    try:
        yield float(cap_gb or total / GB)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        release_memory(device)


def _peaks(device: torch.device) -> dict[str, float]:
    """The most memory that PyTorch used and held, in GB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    used, held = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"peak_used_gb": used / GB, "peak_held_gb": held / GB}
