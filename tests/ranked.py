"""Real runs in several processes: forked from a warm program, or started by the launcher as a user does."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ed2.app.reporters.jsonl import read_events
from ed2.events import Event
from ed2.settings.files import PROGRAM_DIR
from tests.runs import Values

E = TypeVar("E", bound=Event)
LIMIT_SECONDS = 250


@dataclass
class Ranked:
    """A run in several processes that has ended.

    Attributes:
        code: exit code of the first process.
        codes: of all, where they are known.
        output: what all of them printed.
    """

    code: int
    output: str
    run_dir: Path
    codes: tuple[int, ...] = ()

    def of(self, kind: type[E]) -> list[E]:
        return [event for _, event in read_events(self.run_dir) if isinstance(event, kind)]

    @property
    def checkpoint(self) -> Path:
        folders = [state.parent for state in (self.run_dir / "ckpts").glob("[!.]*/training_state")]
        return max(folders, key=lambda folder: folder.name.partition("-gs")[2])

    @property
    def average(self) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}_ema")


@dataclass
class Warm:
    """A program that forks the processes of runs."""

    program: "subprocess.Popen[str]"
    folder: Path
    _numbers: Iterator[int]

    def train(self, size: int, values: Values, faults: Mapping[int, str] | None = None) -> Ranked:
        """Train in several processes to the end; a process may have a fault of `tests.faulty_rank`."""
        number = next(self._numbers)
        config, output = self.folder / f"{number}.json", self.folder / f"{number}.log"
        config.write_text(json.dumps(values))
        request = {"size": size, "argv": ["--config", str(config)], "faults": faults or {}, "output": str(output)}
        assert self.program.stdin and self.program.stdout
        self.program.stdin.write(json.dumps(request) + "\n")
        self.program.stdin.flush()
        codes = json.loads(self.program.stdout.readline())
        return Ranked(codes[0], output.read_text(), newest(values["logdir"]), tuple(codes))


@contextmanager
def warm_program(folder: Path) -> Iterator[Warm]:
    """Start it, and end it."""
    command = [sys.executable, "-m", "tests.warm_ranks"]
    with subprocess.Popen(
        command, cwd=PROGRAM_DIR, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout and program.stdout.readline() == "ready\n"
        yield Warm(program, folder, itertools.count())
        assert program.stdin
        program.stdin.close()


def environment() -> dict[str, str]:
    """One computing thread in each process."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(values: Values, size: int) -> "subprocess.Popen[str]":
    """Start the launcher of a run, with all that its processes print in one pipe."""
    config = Path(str(values["logdir"])).parent / "settings.json"
    config.write_text(json.dumps(values))
    command = [sys.executable, "train.py", "--config", str(config), "--num_processes", str(size)]
    return subprocess.Popen(
        command, cwd=PROGRAM_DIR, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: "subprocess.Popen[str]", logdir: object, said: str = "") -> Ranked:
    """Wait for a run; `said` is what was read of its output before."""
    output, _ = process.communicate(timeout=LIMIT_SECONDS)
    return Ranked(process.returncode, said + output, newest(logdir))


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What a run prints up to the first line with this text."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


def newest(logdir: object) -> Path:
    return max(Path(str(logdir)).glob("*_*"), key=lambda folder: folder.name)


def pid_of(launcher: int, rank: int) -> int:
    """The process of a rank among those that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    mark = f"\0RANK={rank}\0"
    return next(int(pid) for pid in children if mark in f"\0{Path(f'/proc/{pid}/environ').read_text()}")
