"""A run in several processes that this program starts, shows and controls as one that it trains itself."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ed2.app.ranks.launcher import ORDERS, Child, how_ended, started_ranks, wait_for_ranks
from ed2.app.ranks.messages import PipeMessage, decoded, encoded, error_of, event_of
from ed2.app.run_settings import effective_settings
from ed2.checkpoint.identity import checkpoints_of
from ed2.errors import printable
from ed2.events import Event, EventBus, RunEnded, RunStarted
from ed2.training.controls import Controls, Request

LAST_LINES = 3
"""How many of the last lines that it printed are reported when a process dies."""
MAX_WORDS = 600
WORDS_SECONDS = 5.0
"""How long to wait for the last of these lines."""

Send = Callable[[PipeMessage], object]


class RelayedControls(Controls):
    """Requests to a run that other processes may train; until they are ready for requests, these are kept.

    Attributes:
        processes: their process ids; none for a run of this process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processes: tuple[int, ...] = ()
        self._order = threading.RLock()  # a signal may interrupt whoever holds it
        self._send: Send | None = None

    @contextlib.contextmanager
    def relayed(self, send: Send, processes: Sequence[int]) -> Iterator[None]:
        """Pass on the requests so far, and those that come within the block."""
        with self._order:
            self._send, self.processes = send, tuple(processes)
            if self.pausing:
                send({"order": "pause"})
            for request in self.take():
                send({"order": request})
            if self.stopping:
                self._send_stop()
        try:
            yield
        finally:
            with self._order:
                self._send, self.processes = None, ()

    def stop(self, signal_number: int = 0, *, save: bool = True) -> None:
        """End the run after the current step; without saving if any call asked for that."""
        with self._order:
            super().stop(signal_number, save=save)
            self._send_stop()

    def pause(self) -> None:
        """Pause the run after the current step."""
        with self._order:
            super().pause()
            self._pass_on({"order": "pause"})

    def resume(self) -> None:
        """Resume a paused run."""
        with self._order:
            super().resume()
            self._pass_on({"order": "resume"})

    def ask(self, request: Request) -> None:
        """Request a checkpoint or samples after the current step."""
        with self._order:
            if self._send is None:
                super().ask(request)
            self._pass_on({"order": request})

    def _send_stop(self) -> None:
        self._pass_on({"order": "stop", "signal": self._signal, "save": self._save})

    def _pass_on(self, order: PipeMessage) -> None:
        if self._send is not None:
            self._send(order)


def train_by_settings(
    values: Mapping[str, object], *, bus: EventBus, controls: RelayedControls, read_libraries: Callable[[], None]
) -> RunEnded:
    """Train with flat settings in this process, or in as many others as they ask for; as `run_training`."""
    size = effective_settings(values, None).settings.run.num_processes
    if size > 1:
        return train_as_child(values, size, bus=bus, controls=controls)
    read_libraries()
    from ed2.app.run import run_training

    return run_training(values, None, bus=bus, controls=controls)


def train_as_child(values: Mapping[str, object], size: int, *, bus: EventBus, controls: RelayedControls) -> RunEnded:
    """Train in `size` processes, otherwise as `run_training`; the last event, which was emitted, is returned.

    It is emitted when the first process has ended, so that the run's folder is free.

    Raises:
        Ed2Error: the run cannot start.
        StopRequested: a stop was requested before it had started.
    """
    _free_gpus()
    run, printed = RemoteRun(bus), Printed()
    argv = ["--num_processes", str(size)]  # the first is sent all settings
    with (
        printed.collected() as stream,
        started_ranks(argv, size, lifeline=ORDERS, stdout=subprocess.PIPE, stderr=stream.fileno()) as children,
    ):
        stream.close()  # it ends once no process has it
        run.children = children
        send = _sender_to(children[0])
        send(dict(values))
        with controls.relayed(send, [child.pid for child in children]):
            run.follow()
        if run.error or run.ended:
            wait_for_ranks(children)
    if run.error:
        raise run.error
    ended = run.ended or run.died(printed.last())
    bus.emit(ended)
    return ended


def _free_gpus() -> None:
    """Free what an earlier run of this program has kept for the next one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _sender_to(child: Child) -> Send:
    """A function that writes to the standard input of a process; without a lock, since a signal handler may call it."""
    assert child.stdin
    pipe = child.stdin.fileno()

    def send(message: PipeMessage) -> None:
        line = encoded(message)
        with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere
            while line:
                line = line[os.write(pipe, line) :]

    return send


@dataclass
class RemoteRun:
    """What is known of a run from what its first process sends.

    Attributes:
        children: the processes.
        ended: how it ended; None while it runs, and if the first process died.
        error: what kept it from starting.
    """

    bus: EventBus
    children: Sequence[Child] = ()
    ended: RunEnded | None = None
    error: BaseException | None = None
    _began: float = field(default_factory=time.monotonic)
    _last: Event | None = None
    _run_dir: Path | None = None
    _missing: int = 0

    def follow(self) -> None:
        """Emit the events until the first process has ended."""
        first = self.children[0]
        for rank in range(1, len(self.children)):
            threading.Thread(target=self._require_start, args=(rank,), name="ranks", daemon=True).start()
        assert first.stdout
        for line in first.stdout:
            with contextlib.suppress(ValueError, KeyError):  # torn, as its process was killed
                self._take(decoded(line))
        first.wait()

    def _take(self, message: PipeMessage) -> None:
        if "error" in message:
            self.error = error_of(message)
            return
        event = self._last = event_of(message)
        if isinstance(event, RunStarted):
            self._run_dir = event.run_dir
        if isinstance(event, RunEnded):
            self.ended = event
        else:
            self.bus.emit(event)

    def _require_start(self, rank: int) -> None:
        """End the first process if another one dies while it waits for all of them, which it would do for minutes."""
        first = self.children[0]
        if self.children[rank].wait() and self._last is None and first.poll() is None:
            self._missing = rank
            first.kill()

    def died(self, words: str) -> RunEnded:
        """The end of a run whose first process died; `words` is what the processes printed last."""
        how = how_ended(self._missing, self.children[self._missing])
        said = f" It said: {words}" if words else ""
        found = checkpoints_of(self._run_dir) if self._run_dir else []
        on_disk = f"The newest checkpoint of the run is {found[-1].name}." if found else "The run has no checkpoint."
        seconds = time.monotonic() - self._began
        step = self._last.step if self._last else 0
        reason = f"{how}, and the run with it.{said} {on_disk}"
        return RunEnded(step, "failed", reason, seconds, found[-1] if found else None)


@dataclass
class Printed:
    """What the processes of a run print, passed on to the standard error of this one."""

    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    @contextlib.contextmanager
    def collected(self) -> Iterator[BinaryIO]:
        """Yield the end of a pipe that the processes print to; afterwards, all of it has been read."""
        reader, writer = os.pipe()
        thread = threading.Thread(target=self._read, args=(reader,), name="printed", daemon=True)
        thread.start()
        try:
            with os.fdopen(writer, "wb") as stream:
                yield stream
        finally:
            thread.join(WORDS_SECONDS)

    def last(self) -> str:
        """The last lines, as part of a message."""
        return printable(" ".join(self._lines), MAX_WORDS)

    def _read(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    self._lines.append(line.strip())
                with contextlib.suppress(OSError, ValueError, AttributeError):  # no terminal, or it is gone
                    sys.stderr.write(line)
                    sys.stderr.flush()
