"""Starts a run in several processes on this machine, each a `train.py` of its own. Needs no torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from ed2.app.signals import STOP_SIGNALS
from ed2.ranks.place import LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE
from ed2.settings.files import PROGRAM_DIR

ADDRESS = "127.0.0.1"
THREADS = "OMP_NUM_THREADS"
"""Computing threads of a process; each would otherwise use all cores."""
LIFELINE = "EVERYDREAM_LIFELINE"
"""Set in rank 0, whose standard input ends when the process that started it does."""
BARE, ORDERS = "1", "orders"
"""Its values: nothing comes through that input before its end, or what another program wants, see `ranks.members`."""
END_SECONDS = 30.0
"""How long the others may take to end after rank 0 has."""
POLL_SECONDS = 0.1
Child = subprocess.Popen[bytes]


def launch_ranks(argv: Sequence[str], size: int) -> int:
    """Train with `size` processes on this machine; returns the exit code of the first, which reports for all.

    Signals are passed on to the first, which saves and stops all. However this process ends, the others do too.
    """
    with started_ranks(argv, size) as children, _passing_signals_to(children[0]):
        return wait_for_ranks(children)


@contextmanager
def started_ranks(
    argv: Sequence[str], size: int, *, lifeline: str = BARE, stdout: int | None = None, stderr: int | None = None
) -> Iterator[list[Child]]:
    """Start `size` processes; those that still run at the end of the block are ended.

    Args:
        argv: the command line of each.
        size: how many.
        lifeline: what comes through the standard input of the first, which is a pipe.
        stdout: of the first, as for `subprocess.Popen`; the others then print to `stderr`.
        stderr: of all.
    """
    environment = {
        **os.environ,
        WORLD_SIZE: str(size),
        LOCAL_WORLD_SIZE: str(size),
        MASTER_ADDR: ADDRESS,
        MASTER_PORT: str(_free_port()),
        "PYTHONUTF8": "1",
    }
    environment.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // size)))
    others = None if stdout is None else stderr
    children: list[Child] = []
    try:
        children.append(_start(argv, {**environment, LIFELINE: lifeline}, 0, subprocess.PIPE, stdout, stderr))
        for rank in range(1, size):
            children.append(_start(argv, environment, rank, subprocess.DEVNULL, others, stderr))
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()


def _start(
    argv: Sequence[str], environment: dict[str, str], rank: int, stdin: int, stdout: int | None, stderr: int | None
) -> Child:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM_DIR / "train.py"), *argv],
        env={**environment, RANK: str(rank), LOCAL_RANK: str(rank)},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=os.name != "nt",  # a terminal would send Ctrl-C to all of them
    )


def _free_port() -> int:
    with socket.socket() as own:
        own.bind((ADDRESS, 0))
        return int(own.getsockname()[1])


def wait_for_ranks(children: Sequence[Child]) -> int:
    """Wait for the first process, and say if another ends before it; returns its exit code."""
    others = dict(enumerate(children[1:], start=1))
    while children[0].poll() is None:
        for rank in [rank for rank, child in others.items() if child.poll() is not None]:
            if others.pop(rank).returncode:
                print(f"{how_ended(rank, children[rank])}.", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)
    end = time.monotonic() + END_SECONDS
    for child in children[1:]:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, end - time.monotonic()))
    code = children[0].returncode
    return code if code >= 0 else 128 - code


def how_ended(rank: int, child: Child) -> str:
    """How a process has ended, as the beginning of a sentence."""
    code = child.returncode
    return f"Process {rank} has ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"


@contextmanager
def _passing_signals_to(child: Child) -> Iterator[None]:
    """Pass signals on to a child within the block; on Windows it gets those of the console by itself."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        if os.name != "nt":
            with suppress(ProcessLookupError):
                child.send_signal(number)

    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
