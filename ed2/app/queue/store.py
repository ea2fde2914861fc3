"""The runs that wait for the trainer, in the user's folder: what is added there survives any end of the program.

One after another is run, from its start or its newest checkpoint; one that fails does not stop the others.
"""

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from ed2.app.reporters.log import describe_end
from ed2.app.runs.records import resume_step
from ed2.disk import write_whole
from ed2.errors import Ed2Error, FinishedError, RefusedError, SettingsError, StopRequested
from ed2.events import Event, RunEnded, RunStarted
from ed2.settings.files import read_preset, with_defaults
from ed2.small_files import read_json

LIST_FILE = "queue.json"
EDIT_LOCK, RUN_LOCK = ".edit.lock", ".run.lock"
EDIT_SECONDS = 20.0
"""How long a change waits for one of another program, which takes milliseconds."""
MAX_QUEUED = 1000
QueueState = Literal["waiting", "running", "stopped", "done", "failed"]
IN_ORDER: tuple[QueueState, ...] = ("running", "stopped", "waiting")
"""Which run is next: first the one that was running when its program was killed, then those that were stopped."""
Observer = Callable[[Event], None]
Train = Callable[[Mapping[str, object], Observer], RunEnded]
"""Trains with flat settings and tells the observer everything that happens."""
ALREADY_DONE = "all epochs were done already"
BEFORE_FIRST_STEP = "stopped before the first step"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuedRun:
    """A run in the queue.

    Attributes:
        number: its name in commands; it never changes.
        project: its project name.
        state: `running` is also the state of a run whose program was killed, until the queue runs again.
        added_at: date and time, for people.
        folder: the run's folder once it has started; empty before.
        text: how it ended, or why it failed.
    """

    number: int
    project: str
    state: QueueState = "waiting"
    added_at: str = ""
    folder: str = ""
    text: str = ""


_LIST: TypeAdapter[list[QueuedRun]] = TypeAdapter(list[QueuedRun])


class RunQueue:
    """The queue of a folder, which several programs may read and change; one of them at a time runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running = FileLock(folder / RUN_LOCK, thread_local=False)
        self._read: tuple[object, tuple[QueuedRun, ...]] = (None, ())

    def runs(self) -> tuple[QueuedRun, ...]:
        """Every run, in the order in which they are started; those that have ended stay until they are removed.

        A list that is damaged is made again from the settings beside it.
        """
        stamp = self.stamp()
        if self._read[0] != stamp:
            self._read = (stamp, self._listed())
        return self._read[1]

    def _listed(self) -> tuple[QueuedRun, ...]:
        try:
            return tuple(_LIST.validate_python(read_json(self.folder / LIST_FILE)))
        except (OSError, ValueError):
            return tuple(self._rebuilt())

    def stamp(self) -> tuple[int, ...]:
        """Changes with every change of the list; costs one look at a file."""
        try:
            found = (self.folder / LIST_FILE).stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def settings_of(self, number: int) -> dict[str, object]:
        """The settings of a run that has not been done yet.

        Raises:
            SettingsError: the file is damaged, or names something that may not be in it.
        """
        values = dict(read_preset(self._file(number)).values)
        with_defaults(values)
        return values

    def add(self, values: Mapping[str, object]) -> QueuedRun:
        """Append a run with these flat settings, with absolute paths; its sample prompts are kept as they are now.

        Raises:
            SettingsError: the settings are invalid.
            OSError: they cannot be written.
        """
        project = with_defaults(values).run.project_name
        with self._edited() as runs:
            if len(runs) >= MAX_QUEUED:
                raise RefusedError("The queue is full", f"it has {MAX_QUEUED:,} runs", "Remove some first.")
            number = 1 + max([run.number for run in runs] + self._used_numbers(), default=0)
            self._write(number, values)
            runs.append(QueuedRun(number, project, added_at=f"{datetime.now():%Y-%m-%d %H:%M}"))
            return runs[-1]

    def change(self, number: int, values: Mapping[str, object]) -> QueuedRun:
        """Give a run that has not started other settings. Raises as `add`, and RefusedError."""
        project = with_defaults(values).run.project_name
        with self._edited() as runs:
            place = _place(runs, number)
            if runs[place].state != "waiting" or runs[place].folder:
                raise RefusedError(f"Run {number} cannot be edited", "it has started", "Add another one to the queue.")
            self._write(number, values)
            runs[place] = replace(runs[place], project=project)
            return runs[place]

    def remove(self, number: int) -> None:
        """Take a run out of the queue; its folder stays. Raises RefusedError while it is running, and OSError."""
        with self._edited() as runs:
            run = runs[_place(runs, number)]
            if run.state == "running" and self.is_being_run():
                raise RefusedError(f"Run {number} cannot be removed", "it is running", "Stop it first.")
            runs.remove(run)
            self._file(number).unlink(missing_ok=True)
            if not run.folder:
                for prompts in self.folder.glob(f"{number}-prompts*"):
                    prompts.unlink()

    def remove_done(self) -> None:
        """Take every run that is done out of the queue. Raises OSError."""
        with self._edited() as runs:
            runs[:] = [run for run in runs if run.state != "done"]

    def move(self, number: int, place: int) -> None:
        """Move a run to another place, from 0; out of range is the nearest end. Raises RefusedError and OSError."""
        with self._edited() as runs:
            run = runs.pop(_place(runs, number))
            runs.insert(min(len(runs), max(0, place)), run)

    def retry(self, number: int) -> None:
        """Have a run that failed wait again; it resumes from its newest checkpoint. Raises RefusedError and OSError."""
        with self._edited() as runs:
            place = _place(runs, number)
            if runs[place].state != "failed":
                raise RefusedError(f"Run {number} cannot be tried again", "it did not fail", "")
            runs[place] = replace(runs[place], state="waiting", text="")

    def is_waiting(self) -> bool:
        """Whether a run would be trained if the queue were run."""
        return any(run.state in IN_ORDER for run in self.runs())

    def take(self) -> QueuedRun | None:
        """Mark the next run as running and return it; None if no run waits. For the program that runs the queue."""
        if not self.is_waiting():
            return None
        with self._edited() as runs:
            found = [run for state in IN_ORDER for run in runs if run.state == state]
            if not found:
                return None
            place = runs.index(found[0])
            runs[place] = replace(found[0], state="running", text="")
            return runs[place]

    def start_values(self, run: QueuedRun) -> dict[str, object]:
        """What to start a run with: its newest checkpoint if it has one, else its settings, with the seed drawn.

        Raises:
            SettingsError: its settings are damaged.
            OSError: the seed cannot be written.
        """
        if run.folder and resume_step(Path(run.folder)) is not None:
            return {"resume_ckpt": run.folder, "logdir": str(Path(run.folder).parent)}
        values = self.settings_of(run.number)
        if with_defaults(values).run.seed < 0:  # once: a run that is killed before its first checkpoint draws no other
            values["seed"] = secrets.randbelow(2**31)
            self._write(run.number, values)
        return values

    def began(self, number: int, folder: Path) -> None:
        """Remember the folder of a run that has started. Raises OSError."""
        self._update(number, folder=str(folder.absolute()))

    def ended(self, number: int, state: QueueState, text: str) -> None:
        """Remember how a run ended; one that is done needs its settings no longer. Raises OSError."""
        self._update(number, state=state, text=text)
        if state == "done":
            self._file(number).unlink(missing_ok=True)

    def is_being_run(self) -> bool:
        """Whether this or another program runs the queue."""
        if self._running.is_locked:
            return True
        if not (self.folder / RUN_LOCK).exists():
            return False
        with suppress(OSError):
            try:
                with FileLock(self.folder / RUN_LOCK, timeout=0, thread_local=False):
                    return False
            except Timeout:
                return True
        return False

    @contextmanager
    def only_runner(self) -> Iterator[None]:
        """Be the one program that runs the queue. Raises RefusedError if another one does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._running.acquire(timeout=0)
        except Timeout:
            why, fix = "another program runs it already", "Wait until that ends, or stop it."
            raise RefusedError("The queue cannot be run", why, fix) from None
        try:
            yield
        finally:
            self._running.release()

    def _update(self, number: int, **changes: Any) -> None:
        with self._edited() as runs:
            for place, run in enumerate(runs):
                if run.number == number:
                    runs[place] = replace(run, **changes)

    @contextmanager
    def _edited(self) -> Iterator[list[QueuedRun]]:
        """The list, to change; it is written at the end unless an error is raised."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / EDIT_LOCK, timeout=EDIT_SECONDS, thread_local=False):
            before = self._listed()
            runs = list(before)
            yield runs
            if tuple(runs) != before or not (self.folder / LIST_FILE).is_file():
                write_whole(self.folder / LIST_FILE, _LIST.dump_json(runs, indent=1))

    def _write(self, number: int, values: Mapping[str, object]) -> None:
        values = {**values, **self._own_prompts(number, values)}
        write_whole(self._file(number), json.dumps(values, indent=1, ensure_ascii=False).encode())

    def _own_prompts(self, number: int, values: Mapping[str, object]) -> dict[str, object]:
        """Copy the prompt file of a run, which the page would change for its next run; a resume needs it too."""
        given = Path(with_defaults(values).sampling.sample_prompts)
        own = self.folder / f"{number}-prompts{given.suffix}"
        if not given.is_absolute() or not given.is_file() or given == own:
            return {}
        write_whole(own, given.read_bytes())
        return {"sample_prompts": str(own)}

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("*.json") if file.stem.isdecimal())

    def _used_numbers(self) -> list[int]:
        """Those of runs and of prompts, which a run that is resumed outside the queue still draws."""
        begins = [file.name.partition("-prompts")[0] for file in self.folder.glob("*-prompts*")]
        return [*self._numbers(), *(int(number) for number in begins if number.isdecimal())]

    def _rebuilt(self) -> Iterator[QueuedRun]:
        for number in self._numbers():
            with suppress(SettingsError):
                yield QueuedRun(number, str(self.settings_of(number).get("project_name", "")))


def _place(runs: list[QueuedRun], number: int) -> int:
    for place, run in enumerate(runs):
        if run.number == number:
            return place
    raise RefusedError(f"There is no run {number} in the queue", "it was removed", "")


def run_next(queue: RunQueue, train: Train) -> QueueState | None:
    """Run the next run of a queue that this program alone runs.

    Returns:
        How it ended; None if no run waits.

    Raises:
        OSError: the queue cannot be written.
    """
    run = queue.take()
    if run is None:
        return None
    state, text = _outcome(queue, run, train)
    queue.ended(run.number, state, text)
    return state


def _outcome(queue: RunQueue, run: QueuedRun, train: Train) -> tuple[QueueState, str]:
    """How a run ended, and why."""

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            queue.began(run.number, event.run_dir)

    try:
        ended = train(queue.start_values(run), watch)
    except FinishedError:
        return "done", ALREADY_DONE
    except StopRequested:
        return "stopped", BEFORE_FIRST_STEP
    except Ed2Error as error:
        return "failed", str(error)
    except Exception as error:
        logger.exception("Run %d of the queue could not start.", run.number)
        return "failed", f"{type(error).__name__}: {error}"
    return ended.phase, describe_end(ended)
