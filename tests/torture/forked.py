"""A run in a process of its own, forked from a warm one that has read the libraries, and killed at a moment.

A fork takes only one thread along, so the warm process may never have had a second one. The moment of a kill is counted
in the time that the run has computed, so that it does not depend on what else the computer does.
"""

import gc
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ed2.app.libraries import read_libraries
from ed2.errors import FinishedError
from ed2.events import CheckpointSaved, Event, PhaseChanged, RunStarted, SavingChanged

if TYPE_CHECKING:
    from ed2.ranks.base import Ranks

PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.004
Tell = Callable[[str], object]
Work = Callable[[Path, Tell], None]
"""What a forked process does: it is given a path, and tells what happens."""


class DifferentError(AssertionError):
    """A run that was killed did not end as the one that was not."""


@dataclass
class Ended:
    """How one process of a run ended.

    Attributes:
        is_killed: whether it was killed before it was done.
        doing: what it did last.
        began_at: the step that it went on from; None where it was killed before it said so.
        saved_at: the highest step of a checkpoint that it told of.
        seconds: that it computed.
    """

    is_killed: bool
    doing: str = "starting"
    began_at: int | None = None
    saved_at: int = 0
    seconds: float = 0.0


def start(preset: Path, log: Path, kill_after: float | None = None, work: Work | None = None) -> Ended:
    """Fork a run that goes on where the last one was, and kill it after so many computed seconds if it is not done.

    Args:
        preset: what `work` is given; for a run alone, its settings.
        log: gets what the process writes.
        kill_after: None lets it end.
        work: what the process does; a run alone if it is None.

    Raises:
        DifferentError: it ended by itself, but not well.
    """
    if threading.active_count() != 1:
        raise RuntimeError("the warm process has started a thread")
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _run_and_leave(preset, log, writing, work or run_once)
    os.close(writing)
    try:
        told = _listen(reading, process, kill_after)
    finally:
        os.close(reading)
        _, status, used = os.wait4(process, 0)
    ended = _ended(told, os.WIFSIGNALED(status), used.ru_utime + used.ru_stime)
    if status and not (ended.is_killed and kill_after is not None):
        raise DifferentError(f"the run ended with {status}; its log is {log}:\n{log.read_text()[-3000:]}")
    return ended


def _listen(reading: int, process: int, kill_after: float | None) -> str:
    """What a process tells until it ends or is killed."""
    told, last, computed = b"", time.monotonic() + PATIENCE_SECONDS, psutil.Process(process)
    while True:
        ready, _, _ = select.select([reading], [], [], POLL_SECONDS)
        part = os.read(reading, 65536) if ready else None
        if part == b"":
            return told.decode()
        told += part or b""
        if time.monotonic() > last or (kill_after is not None and sum(computed.cpu_times()[:2]) >= kill_after):
            os.kill(process, signal.SIGKILL)
            return (told + _rest(reading)).decode()


def _rest(reading: int) -> bytes:
    """What a killed process has told last."""
    told = b""
    while part := os.read(reading, 65536):
        told += part
    return told


def _ended(told: str, is_killed: bool, seconds: float) -> Ended:
    ended = Ended(is_killed, seconds=seconds)
    for line in told.split("\n")[:-1]:  # the last one is empty or torn
        word, _, rest = line.partition(" ")
        if word == "began":
            ended.began_at = int(rest)
        elif word == "saved":
            ended.saved_at = max(ended.saved_at, int(rest))
        else:
            ended.doing = rest
    return ended


def _run_and_leave(preset: Path, log: Path, writing: int, work: Work) -> None:
    """The whole life of a forked process."""
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        import torch

        torch.set_num_threads(1)  # or the first threads of a fork make PyTorch's pool anew at once, and trip over it
        work(preset, lambda line: os.write(writing, f"{line}\n".encode()))
        code = 0
    except FinishedError:
        code = 0  # it was killed after its last save
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def run_in_two(preset: Path, tell: Tell) -> None:
    """Do so in two processes, of which this is the first; the other ends by itself when this one is killed."""
    from ed2.app.ranks.members import follow
    from ed2.ranks.group import Follower, Leader, join
    from ed2.ranks.place import RankPlace

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    other = os.fork()
    os.environ["RANK"] = "0" if other else "1"
    ranks = join(RankPlace.of())
    if isinstance(ranks, Follower):
        os._exit(follow(ranks))
    assert isinstance(ranks, Leader)
    with closing(ranks):
        run_once(preset, tell, ranks)
    os.waitpid(other, 0)


def run_once(preset: Path, tell: Tell, ranks: "Ranks | None" = None) -> None:
    """Go on with the newest checkpoint of the preset's runs, or begin, and tell what happens."""
    from ed2.app.images import scanning
    from ed2.app.run import run_training
    from ed2.events import EventBus
    from ed2.training.controls import Controls

    scanning.INDEX_FILE = preset.parent / "index.json"
    bus = EventBus()
    bus.subscribe(lambda event: [tell(line) for line in told(event)])
    ended = run_training({"resume_ckpt": "findlast"}, preset, bus=bus, controls=Controls(), ranks=ranks)
    if ended.phase != "done":
        raise DifferentError(f"{ended.phase}: {ended.reason}")


def told(event: Event) -> list[str]:
    """What a process tells of an event, in lines."""
    if isinstance(event, RunStarted):
        return [f"began {event.step}"]
    if isinstance(event, PhaseChanged):
        return [f"doing {event.phase}"]
    if isinstance(event, SavingChanged):
        return ["doing saving" if event.is_saving else "doing training"]
    if isinstance(event, CheckpointSaved):
        return [f"saved {event.step}"]
    return []


def warm_up(folder: Path, family: str = "sd1") -> tuple[Path, Path]:
    """Read what runs need, make a model and images, and load the model, so that the libraries have made their tables.

    Returns:
        The model, and the folder of images, one of which has a caption of two chunks.
    """
    read_libraries()
    import torch
    import torch.utils.tensorboard
    from tensorboard.backend.event_processing import event_accumulator  # noqa: F401
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # or its bars start a thread
    import ed2.app.ranks.members
    import ed2.app.run
    import ed2.ranks.group  # noqa: F401
    from ed2.models.files.source import open_base
    from ed2.registry import FAMILIES
    from tests.conftest import SIZES
    from tests.tiny import make_images, make_model

    model = make_model(folder / "model", family=family)
    load = FAMILIES.load(family)
    load(open_base(model, {}), trained=["unet"], device=torch.device("cpu"), frozen_dtype=torch.float32)
    images = make_images(folder / "images", SIZES)
    (images / "00.txt").write_text("a red circle beside " + "a blue square and " * 20 + "a cat")
    gc.collect()
    gc.freeze()  # no fork looks through all of torch when it collects garbage
    return model, images
