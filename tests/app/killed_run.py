"""A run that is killed with -9: while its cache is filled, or after a step.

    python -m tests.app.killed_run JSON

JSON has the `values` of the run, the file `index` of what is known of images, and `at_row` or `at_step` of the kill.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from ed2.app.images import scanning
from ed2.data import cache
from ed2.events import Event, StepDone
from tests.runs import train


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    told = json.loads(sys.argv[1])
    scanning.INDEX_FILE = Path(told["index"])
    cache.SHARD_SECONDS = 0.0  # a shard for each row
    torch.set_num_threads(1)
    rows, add = 0, cache.TensorCache.add

    def add_or_die(self: cache.TensorCache, key: bytes, row: cache.Row) -> None:
        nonlocal rows
        add(self, key, row)
        rows += 1
        if rows == told.get("at_row"):
            die()

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == told.get("at_step"):
            die()

    cache.TensorCache.add = add_or_die  # type: ignore[method-assign]
    train(told["values"], observer=watch)


if __name__ == "__main__":
    main()
