"""A queue that is killed with -9 at random moments until it is done, and compared with runs that were left alone."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.app.queue.store import Observer, RunQueue, run_next
from ed2.app.resume_test.comparison import differences
from ed2.events import EventBus, RunEnded
from tests.torture.forked import DifferentError, Tell, start, told
from tests.torture.kills import COMMON, Values

VARIANTS: Mapping[str, Values] = {
    "ema": {"ema_decay_rate": 0.9, "ema_update_interval": 2},
    "failing": {},
    "lora": {"method": "lora", "lora_layers": "all"},
    "drawn": {"seed": 11, "max_epochs": 2},
}
"""The runs of the queue by their project name; the images of one are gone when it starts."""
LONGEST_LIFE = 0.2
"""The latest moment of a kill, as a share of the time of all runs."""
PATIENCE = 1.1


@dataclass
class QueueTorture:
    """Kills a queue of four runs, one of which fails.

    Attributes:
        folder: everything is written here.
        model: the base model.
        images: the folder of images.
    """

    folder: Path
    model: Path
    images: Path
    seed: int = 0
    tell: Callable[[str], object] = print
    kills: int = 0

    def until(self, kills: int) -> None:
        """Kill so many times, with a new queue whenever one is done.

        Raises:
            DifferentError: a run did not end as the one that was left alone.
        """
        chance = random.Random(self.seed)
        seconds = self._alone()
        while self.kills < kills:
            folder = self.folder / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            self._fill(folder)
            left, life = kills - self.kills, LONGEST_LIFE
            while start(folder, folder / "log.txt", chance.uniform(0, seconds * life) if left else None, run).is_killed:
                left, self.kills, life = left - 1, self.kills + 1, life * PATIENCE
            self._compare(folder)
            self.tell(f"{self.kills} kills, every run of the queue the same")

    def _alone(self) -> float:
        """Train each run alone; returns the seconds that all of them computed."""
        seconds = 0.0
        for name in VARIANTS:
            if name != "failing":
                queue = RunQueue(self.folder / "alone" / name / "queue")
                queue.add(self._values(name, self.folder / "alone" / name))
                seconds += start(queue.folder.parent, queue.folder / "log.txt", work=run).seconds
        return seconds

    def _fill(self, folder: Path) -> None:
        folder.mkdir()
        queue = RunQueue(folder / "queue")
        gone = folder / "gone"
        gone.mkdir()
        for name in VARIANTS:
            values = self._values(name, folder)
            queue.add({**values, "data_root": [str(gone)]} if name == "failing" else values)
        gone.rmdir()

    def _values(self, name: str, folder: Path) -> Values:
        places = {"logdir": folder / "logs" / name, "save_ckpt_dir": folder / "files", "resume_ckpt": self.model}
        values = COMMON | {key: str(path) for key, path in places.items()} | VARIANTS[name]
        return values | {"data_root": [str(self.images)], "sample_prompts": "", "project_name": name}

    def _compare(self, folder: Path) -> None:
        states = {one.project: one.state for one in RunQueue(folder / "queue").runs()}
        if states != {name: "failed" if name == "failing" else "done" for name in VARIANTS}:
            raise DifferentError(f"the queue ended with {states}: {folder}")
        for name in VARIANTS:
            if name == "failing":
                continue
            alone = newest_run_of(self.folder / "alone" / name / "logs" / name)
            if found := differences(alone, newest_run_of(folder / "logs" / name)):
                raise DifferentError(f"{name}, seed {self.seed}, {folder}:\n  " + "\n  ".join(found))


def newest_run_of(logdir: Path) -> Path:
    """The run of a folder of runs that began last: earlier ones were killed before their first checkpoint."""
    return max((path for path in logdir.iterdir() if path.is_dir()), key=lambda path: path.name)


def run(folder: Path, tell: Tell) -> None:
    """Run the queue of a folder to its end."""
    from ed2.app.images import scanning
    from ed2.app.run import run_training
    from ed2.training.controls import Controls

    scanning.INDEX_FILE = folder / "index.json"

    def train(values: Mapping[str, object], watch: Observer) -> RunEnded:
        bus = EventBus([watch, lambda event: [tell(line) for line in told(event)]])
        return run_training(values, None, bus=bus, controls=Controls())

    queue = RunQueue(folder / "queue")
    with queue.only_runner():
        while run_next(queue, train):
            pass
