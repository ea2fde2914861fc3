"""A long run of the trainer in one process: its memory must not grow, nor its threads and open files."""

import ctypes
import gc
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ed2.events import Event, StepDone
from tests.torture.kills import COMMON, OPTIONS, PROMPTS

BYTES_PER_MB = 2**20
MB_PER_10000_STEPS = 5.0


@dataclass
class Reading:
    """What the process held after a step."""

    step: int
    mb: float
    threads: int
    files: int


@dataclass
class Soak:
    """Reads the process every so many steps.

    Attributes:
        every: steps between two readings.
        tell: gets a line for each.
    """

    every: int
    tell: Callable[[str], object] = print
    readings: list[Reading] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Read after a step; before that what Python and the allocator merely keep is given back."""
        if not isinstance(event, StepDone) or event.step % self.every:
            return
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        process = psutil.Process()
        files = process.num_handles() if sys.platform == "win32" else process.num_fds()
        reading = Reading(event.step, process.memory_info().rss / BYTES_PER_MB, threading.active_count(), files)
        self.readings.append(reading)
        self.tell(f"step {reading.step}: {reading.mb:.1f} MB, {reading.threads} threads, {reading.files} files")

    def summary(self, steps: int) -> str:
        """What was read, in a line."""
        first = steps // 5
        read = [reading for reading in self.readings if reading.step >= first]
        threads, files = (sorted({getattr(r, what) for r in read}) for what in ("threads", "files"))
        return (
            f"{steps} steps: {self.growth(first):+.2f} MB in 10,000 steps, {read[0].mb:.1f} to {read[-1].mb:.1f} MB "
            f"since step {read[0].step}; threads {threads}, open files {files}"
        )

    def is_constant(self, first: int) -> bool:
        """Whether threads and files do not become more; a save or a validation may be going on at a reading."""
        read = [reading for reading in self.readings if reading.step >= first]
        early, late = read[: len(read) // 2], read[len(read) // 2 :]
        return all(
            min(getattr(r, what) for r in late) <= max(getattr(r, what) for r in early)
            and max(getattr(r, what) for r in late) <= max(getattr(r, what) for r in early) + 2
            for what in ("threads", "files")
        )

    def growth(self, first: int) -> float:
        """MB in 10,000 steps, by a straight line through the readings from step `first` on."""
        read = [r for r in self.readings if r.step >= first]
        mean_step, mean_mb = (sum(v) / len(read) for v in zip(*((r.step, r.mb) for r in read), strict=True))
        above = sum((r.step - mean_step) * (r.mb - mean_mb) for r in read)
        return 10_000 * above / sum((r.step - mean_step) ** 2 for r in read)


def soak(folder: Path, model: Path, images: Path, steps: int, watch: Soak) -> int:
    """Train so many steps with all that a run may do, and return how many were done."""
    from ed2.app.images import scanning
    from ed2.app.run import run_training
    from ed2.events import EventBus
    from ed2.training.controls import Controls

    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    values = dict(COMMON)
    for option in OPTIONS.values():
        values |= option
    values |= {"data_root": [str(images)], "resume_ckpt": str(model), "logdir": str(folder / "logs")}
    values |= {"sample_prompts": str(folder / "prompts.json"), "save_ckpt_dir": str(folder / "files")}
    values |= {"grad_accum": 1, "max_epochs": 1 + steps // 3, "every_n_epochs": 10, "sample_steps": 100, "log_step": 5}
    values |= {"save_every_n_epochs": 10, "ckpt_every_n_minutes": None, "keep_last": 2, "lr_scheduler": "constant"}
    scanning.INDEX_FILE = folder / "index.json"
    bus, controls = EventBus([watch]), Controls()
    bus.subscribe(lambda event: controls.stop() if isinstance(event, StepDone) and event.step >= steps else None)
    ended = run_training(values, None, bus=bus, controls=controls)
    assert ended.phase == "stopped", ended.reason
    return ended.step
