"""The trainer of this program: one thread, one run at a time, and the commands it accepts in each state."""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ed2.app.checks.start_checks import as_setting_problems, start_problems
from ed2.app.libraries import read_libraries
from ed2.app.on_end import OnEnd
from ed2.app.queue.store import Observer, RunQueue, run_next
from ed2.app.ranks.parent import RelayedControls, train_by_settings
from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.run_view import PAUSING, RunView
from ed2.app.runs.records import SCAN_REST, SCAN_SECONDS, ExternalRuns, replay_run, resume_step
from ed2.app.snapshot import Command, RunSnapshot
from ed2.checkpoint.run_lock import Holder, other_trainer
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, ModelError, Problem, RefusedError, SettingsError, StopRequested
from ed2.events import EventBus, PhaseChanged, RunEnded
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.training.controls import Request
from ed2.vram.sampler import MemorySampler

logger = logging.getLogger(__name__)

MEMORY_SECONDS = 2.0
JOIN_SECONDS = 1.0
"""Threads are joined with this timeout, in a loop: on Windows a join without a timeout blocks Ctrl-C."""


class TrainerService:
    """Holds the run of this process; every method may be called from any thread."""

    def __init__(self, view: RunView | None = None, on_end: OnEnd | None = None) -> None:
        self._lock = threading.RLock()
        self._view = view or RunView()
        self._on_end = on_end or OnEnd("")
        self._controls = RelayedControls()
        self._thread: threading.Thread | None = None
        self._libraries = threading.Lock()
        self._closed = threading.Event()
        self._queue: RunQueue | None = None
        self._is_queue_running = False
        self._memory = MemorySampler()
        self._elsewhere: ExternalRuns | None = None
        threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()

    def snapshot(self) -> RunSnapshot:
        """What pages show."""
        return self._view.snapshot()

    def start(self, values: Mapping[str, object]) -> None:
        """Begin a run with these flat settings; relative paths count from the program's folder.

        Raises:
            RefusedError: a run is in progress.
            SettingsError: lists everything that is wrong; nothing was started.
        """
        with self._lock:
            if self._is_queue_running:  # between two of its runs none is in progress
                raise RefusedError("Cannot start now", "the queue is running", "Stop it first, or add the run to it.")
            self._view.command("start")
            values = absolute_paths(values, PROGRAM_DIR)
            if problems := start_problems(values):
                self.show_problems(problems)
                raise SettingsError("The run cannot start:", problems)
            self._controls = RelayedControls()
            self._view.clear("preparing", "loading libraries")
            work = (values, self._controls, self._thread)
            self._thread = threading.Thread(target=self._work, args=work, name="trainer")
            self._thread.start()

    def run_queue(self, queue: RunQueue) -> None:
        """Train the runs of a queue, one after another; if a run is in progress, once that has ended by itself.

        Raises:
            RefusedError: another program runs it.
        """
        with self._lock:
            if not self._is_queue_running and queue.is_being_run():
                raise RefusedError("The queue cannot be run", "another program runs it already", "Stop it there first.")
            self._queue = queue
            if not self._is_queue_running and not self.snapshot().is_active:
                self._is_queue_running = True
                self._thread = threading.Thread(target=self._work_queue, args=(self._thread,), name="trainer")
                self._thread.start()

    @property
    def is_queue_wanted(self) -> bool:
        """Whether the queue runs here, or will once the run in progress has ended."""
        return self._queue is not None

    def pause(self) -> None:
        """Wait after this step. Raises RefusedError."""
        with self._lock:
            self._view.command("pause", asked=self._when(PAUSING))  # first: the run clears it once it waits
            self._controls.pause()

    def resume(self) -> None:
        """Continue after a pause. Raises RefusedError."""
        with self._lock:
            self._view.command("continue", asked="")
            self._controls.resume()

    def stop(self, signal_number: int = 0) -> None:
        """End after this step, and save. Raises RefusedError."""
        with self._lock:  # shown first, since the run may end at once
            self._queue = None
            detail = "finishing this step, then saving"
            self._view.command("stop", state="stopping", detail=detail, asked="")
            controls = self._controls
        controls.stop(signal_number)

    def stop_without_saving(self) -> None:
        """End after this step and save nothing; a save in progress is completed. Raises RefusedError."""
        with self._lock:
            self._view.command("stop without saving", state="stopping", detail="stopping without saving", asked="")
            self._queue = None
            controls = self._controls
        controls.stop(save=False)

    def save_now(self) -> None:
        """Save a checkpoint after the current step. Raises RefusedError."""
        self._ask("save now", "save", "saving")

    def sample_now(self) -> None:
        """Draw the sample prompts after the present step. Raises RefusedError."""
        self._ask("sample now", "sample", "sampling")

    def show_problems(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong beside the Train button."""
        self._view.change("problems", problems=tuple(problems))

    def read_libraries(self) -> None:
        """Import what a run needs, which takes seconds; done ahead of time, so that Train responds sooner."""
        with self._libraries:  # two threads that import the same module at once may see half of it
            read_libraries()
            import ed2.app.run  # noqa: F401

    def show_last_run(self, logdir: Path) -> None:
        """Show the newest run of a folder, as after a restart of the program."""
        runs = sorted(logdir.glob(f"*/{EVENTS_NAME}"), key=lambda file: file.stat().st_mtime)
        if runs:
            self._show(runs[-1].parent, other_trainer(runs[-1].parent))

    def forget(self, run_dir: Path) -> None:
        """Show no run, if the one that is shown was in this folder, which was deleted."""
        with self._lock:
            shown = self.snapshot()
            if not shown.is_active and shown.run_dir == run_dir:
                self._view.clear("idle")

    def follow(self, logdir: Path) -> None:
        """From now on, while no run is in progress here, show runs that other programs train in this runs folder."""
        with self._lock:
            before, self._elsewhere = self._elsewhere, ExternalRuns(logdir)
        if before is None:
            threading.Thread(target=self._watch_elsewhere, name="elsewhere", daemon=True).start()

    def check_other_programs(self) -> None:
        """Show whether another program has started a run, how far it is, or that it has ended."""
        shown = self.snapshot()
        if shown.is_active or self._elsewhere is None:
            return
        if running := self._elsewhere.newest():
            self._show(*running)
        elif shown.elsewhere and shown.run_dir:
            self._show(shown.run_dir, other_trainer(shown.run_dir))  # it may continue in a folder followed earlier

    def _show(self, run_dir: Path, trainer: Holder | None) -> None:
        """Show the run in a folder, unless one is in progress here."""
        with contextlib.suppress(OSError):  # its folder was removed, or has no events yet
            replayed = replay_run(run_dir)
            if trainer:
                replayed = replace(
                    replayed,
                    state="idle",
                    detail=f"the run is being trained in {trainer.name}",
                    elsewhere=trainer.name,
                    is_saving=False,
                    progress="",
                    problems=self.snapshot().problems,  # of a start here: they stay until they are fixed
                )
            elif replayed.is_active or (replayed.state == "idle" and replayed.run_dir):  # killed before its first phase
                replayed = replace(replayed, state="stopped", detail=_resume_advice(run_dir), is_saving=False)
            with self._lock:
                if not self.snapshot().is_active:
                    self._view.show(replayed)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no run is in progress; false if that takes longer than `timeout` seconds."""
        thread = self._thread
        while timeout is None and thread is not None and thread.is_alive():
            thread.join(JOIN_SECONDS)
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def close(self, signal_number: int = 0) -> None:
        """Stop and save what is running, and end the threads of this service."""
        with self._lock:
            self._queue = None
        with contextlib.suppress(RefusedError):
            self.stop(signal_number)
        self.wait()
        self._closed.set()

    def _ask(self, command: Command, request: Request, doing: str) -> None:
        with self._lock:
            asked = self.snapshot().asked
            self._view.command(command, asked=asked if asked.startswith(PAUSING) else self._when(doing))
            self._controls.ask(request)

    def _when(self, doing: str) -> str:
        """The pending request and when it is carried out; empty for a paused run, which acts at once."""
        state = self.snapshot().state
        if state == "paused":
            return ""
        if state == "preparing":
            return f"{doing} as soon as possible"
        return f"{doing} after {'these samples' if state == 'sampling' else 'this step'}"

    def _work(self, values: Mapping[str, object], controls: RelayedControls, before: threading.Thread | None) -> None:
        """The trainer's thread: a run from its start to its end, then the queue if that is wanted."""
        if before is not None:  # its run has reported its end, but may still hold the lock on its folder
            before.join()
        with contextlib.suppress(Exception, StopRequested):  # they are shown
            self._train(values, controls)
        with self._lock:
            if self._is_queue_running or self._queue is None:
                return
            self._is_queue_running = True
        self._work_queue(None)

    def _work_queue(self, before: threading.Thread | None) -> None:
        """The trainer's thread: the runs of the queue, until none waits or one was stopped."""
        if before is not None:
            before.join()
        problem = None
        try:
            while queue := self._next_queue():
                with queue.only_runner():
                    run_next(queue, self._train_next)
        except RefusedError as error:
            problem = Problem(None, str(error))
        except OSError as error:
            problem = Problem(None, f"The queue cannot be read or written: {plain_reason(error)}.")
        if problem:
            with self._lock:
                self._queue, self._is_queue_running = None, False
            self.show_problems([problem])

    def _next_queue(self) -> RunQueue | None:
        """The queue if one of its runs is next; otherwise it has ended."""
        with self._lock:
            if self._queue is None or not self._queue.is_waiting():
                self._queue, self._is_queue_running = None, False
            return self._queue

    def _train_next(self, values: Mapping[str, object], watch: Observer) -> RunEnded:
        """Train a run of the queue. Raises StopRequested if a stop was asked for before it."""
        with self._lock:
            if self._queue is None:
                raise StopRequested
            self._controls = RelayedControls()
            self._view.clear("preparing", "loading libraries")
        return self._train(values, self._controls, watch)

    def _train(self, values: Mapping[str, object], controls: RelayedControls, *observers: Observer) -> RunEnded:
        """A run from its start to its end; what keeps it from starting is shown and raised."""
        bus = EventBus([self._view, *observers])
        with self._on_end.following(bus):
            return self._train_on(bus, values, controls)

    def _train_on(self, bus: EventBus, values: Mapping[str, object], controls: RelayedControls) -> RunEnded:
        try:
            return train_by_settings(values, bus=bus, controls=controls, read_libraries=self.read_libraries)
        except StopRequested:
            bus.emit(RunEnded(0, "stopped", "stopped before the first step", 0.0))
            raise
        except Ed2Error as error:
            problems = error.problems
            if isinstance(error, ModelError):
                problems = tuple(as_setting_problems(str(values.get("resume_ckpt")), problems))
            bus.emit(PhaseChanged(0, "failed", error.what))
            self._view.change("problems", problems=problems)
            raise
        except Exception as error:
            logger.exception("The run could not start.")
            bus.emit(RunEnded(0, "failed", f"{type(error).__name__}: {error}", 0.0))
            raise

    def _watch_elsewhere(self) -> None:
        took, survived = 0.0, Survived("The runs of other programs cannot be followed")
        while not self._closed.wait(max(SCAN_SECONDS, SCAN_REST * took)):
            began = time.monotonic()
            with survived:
                self.check_other_programs()
            took = time.monotonic() - began

    def _watch_memory(self) -> None:
        survived = Survived("The memory in use cannot be read")
        while not self._closed.is_set():
            with survived:
                memory = self._memory.read(self._controls.processes)
                if memory != self._view.snapshot().memory:
                    self._view.change("memory", memory=memory)
            self._closed.wait(MEMORY_SECONDS)


@dataclass
class Survived:
    """Keeps a loop alive through any error: says once what does not work, and once that it works again."""

    what: str
    _is_failing: bool = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None and not self._is_failing:
            logger.warning("%s: %s. Tried again every few seconds.", self.what, plain_reason(error))
        elif error is None and self._is_failing:
            logger.warning("Resolved: %s.", self.what[0].lower() + self.what[1:])
        self._is_failing = error is not None
        return True


def _resume_advice(run_dir: Path) -> str:
    """What to do about a run whose program exited during it."""
    step = resume_step(run_dir)
    if step is None:
        return "the program exited before the first checkpoint: press Train to start again"
    return f"the program exited during the run: resume it from step {step:,} in the Resume tab"
