"""A training in a process of its own: CPU seconds from its start to the first step, and its peak memory.

    python -m scripts.benchmark.first_step limit|ours FOLDER RESOLUTION STEPS

Prints {"first_step": CPU seconds, "peak_mb": after the last step}. `limit` imports and reads a UNet and trains it on
latents and embeddings that are ready; `ours` is a whole run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def limit(folder: Path, resolution: int, steps: int) -> float:
    """Train the UNet on ready numbers; gives the CPU seconds at the first step."""
    from scripts.benchmark.limit import BareLoop

    loop = BareLoop(folder / "base", resolution)
    first = 0.0
    for _ in range(steps):
        loop.step()
        first = first or time.process_time()
    return first


def ours(folder: Path, resolution: int, steps: int) -> float:
    """Train as `train.py` does; gives the CPU seconds at the first step."""
    from ed2.app.libraries import read_libraries

    read_libraries()
    from ed2.app.run import run_training
    from ed2.events import Event, EventBus, StepDone
    from ed2.training.controls import Controls
    from scripts.benchmark.fixtures import settings

    controls, firsts = Controls(), list[float]()

    def watch(event: Event) -> None:
        if isinstance(event, StepDone):
            firsts.append(time.process_time())
            if event.step == steps:
                report(firsts[0])
                controls.stop(save=False)

    run_training(settings(folder, resolution=resolution), None, bus=EventBus([watch]), controls=controls)
    return firsts[0]


def report(first: float) -> None:
    """Print the figures."""
    # Not `ru_maxrss`, which begins with what the process that started this one has had.
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(json.dumps({"first_step": first, "peak_mb": int(peak.split()[1]) / 1024}), flush=True)


if __name__ == "__main__":
    where, pixels, count = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if sys.argv[1] == "limit":
        report(limit(where, pixels, count))
    else:
        ours(where, pixels, count)
