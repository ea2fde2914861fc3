"""The step beside the limit, the start, and the peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.caching import fill_row
from scripts.benchmark.fixtures import ROOT, make_base, make_photographs, settings
from scripts.benchmark.rows import Row, Size, cpu_seconds, wait_until_idle

STEPS_OF_START = 6


def training_rows(folder: Path, size: Size) -> list[Row]:
    """Start and memory in processes of their own, then steps of both kinds by turns in this one."""
    make_base(folder / "base", size.width)
    make_photographs(folder / "images", size.training_images)
    steps = [_step_row(folder, size, is_cached=is_cached) for is_cached in (False, True)]
    return [*_start_rows(folder, size), *steps, _rounding_row(folder, size), fill_row(folder, size)]


def _start_rows(folder: Path, size: Size) -> list[Row]:
    steps = min(size.steps, STEPS_OF_START)
    found: dict[str, list[dict[str, float]]] = {"limit": [], "ours": []}
    for _ in range(size.rounds):
        for kind, results in found.items():
            results.append(_in_process(kind, folder, size, steps))
    starts, peaks = (
        {kind: [one[name] for one in of] for kind, of in found.items()} for name in ("first_step", "peak_mb")
    )
    return [
        Row.of(
            "start to the first step, beyond the limit's own",
            "CPU s",
            starts["ours"],
            starts["limit"],
            goal=1.0,
            how="difference",
        ),
        Row.of("peak memory / limit", "MB", peaks["ours"], peaks["limit"], goal=1.08),
    ]


def _in_process(kind: str, folder: Path, size: Size, steps: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "scripts.benchmark.first_step",
        kind,
        str(folder),
        str(size.resolution),
        str(steps),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"first_step"')]
    if not lines:
        raise RuntimeError(f"The training of {kind} failed:\n{done.stdout}\n{done.stderr}")
    return dict(json.loads(lines[-1]))


class _Rounds:
    """Listens to a run: takes the CPU time of each round of its steps, and lets the limit do as many in between.

    The images of the next batches are decoded in advance. Each round begins and ends when that is done, so that it
    holds the work of exactly its own steps.
    """

    def __init__(self, base: Path, size: Size) -> None:
        from ed2.training.controls import Controls
        from scripts.benchmark.limit import BareLoop

        self.controls, self.ours, self.limit = Controls(), list[float](), list[float]()
        self._loop, self._size, self._started = BareLoop(base, size.resolution), size, 0.0

    def __call__(self, event: object) -> None:
        from ed2.events import StepDone

        if not isinstance(event, StepDone) or event.step % self._size.steps:
            return
        wait_until_idle()
        if event.step > self._size.steps:  # the first round warms up
            self.ours.append((time.process_time() - self._started) / self._size.steps)
        started = time.process_time()
        for _ in range(self._size.steps):
            self._loop.step()
        if event.step > self._size.steps:
            self.limit.append((time.process_time() - started) / self._size.steps)
        if len(self.ours) == self._size.rounds:
            self.controls.stop(save=False)
        self._started = time.process_time()


def _step_row(folder: Path, size: Size, *, is_cached: bool) -> Row:
    from ed2.app.run import run_training
    from ed2.events import EventBus

    rounds = _Rounds(folder / "base", size)
    caches = {"cache_latents": is_cached, "cache_text": is_cached, "cache_dir": str(folder / "cache")}
    values = settings(folder, resolution=size.resolution, decode_threads=1, **caches)
    run_training(values, None, bus=EventBus([rounds]), controls=rounds.controls)
    if is_cached:
        return Row.of("step, latents and text cached / limit", "CPU s", rounds.ours, rounds.limit, goal=1.03)
    return Row.of("step, no cache / limit", "CPU s", rounds.ours, rounds.limit, goal=1.15)


def _rounding_row(folder: Path, size: Size) -> Row:
    """What the random bits of `weights_dtype bf16` take, beside a step in fp32."""
    from ed2.training.rounding import Rounding
    from scripts.benchmark.limit import BareLoop

    loop = BareLoop(folder / "base", size.resolution)
    weights = dict(loop.unet.named_parameters())
    rounding = Rounding(0, {parameter: name for name, parameter in weights.items()})
    rounds, steps = list[float](), list[float]()
    for number in range(size.rounds + 1):
        copies = [(parameter, parameter.detach().clone()) for parameter in weights.values()]

        def round_all(copies: list[Any] = copies, number: int = number) -> None:
            for parameter, copy in copies:
                rounding.rounded(parameter, copy, number)

        rounds.append(cpu_seconds(round_all))
        steps.append(cpu_seconds(loop.step))
    # The first of each warms up.
    return Row.of("rounding of weights in bf16 / step of the limit", "CPU s", rounds[1:], steps[1:], goal=0.05)
