"""`python -m ed2 queue`: list, change and run the queue without a page. Needs no torch until it runs something."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ed2.app.checks.start_checks import require_valid
from ed2.app.libraries import read_libraries, require_temporary_folder
from ed2.app.on_end import OnEnd
from ed2.app.queue.store import Observer, QueuedRun, RunQueue, run_next
from ed2.app.ranks.parent import RelayedControls, train_by_settings
from ed2.app.signals import stopping_on_signals
from ed2.app.user_files import UserFiles
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.events import EventBus, RunEnded
from ed2.settings import cli
from ed2.settings.gather import gather
from ed2.terminal import LAUNCHER
from ed2.text import counted, visible_line

USE = f"{LAUNCHER} queue [--queue FOLDER] [list | add | edit | move | remove | retry | clear | run]"
HELP = f"""\
{USE}

Runs that wait, and are trained one after another. The page shows the same queue.

  list                      show them (also without a word)
  add [--config FILE] [--name value ...]   append a run; its settings are checked at once
  edit NUMBER --name value ...             change settings of a run that has not started
  move NUMBER PLACE         move a run to another place, 1 is the first
  remove NUMBER ...         take runs out; their folders stay
  retry NUMBER              have a run that failed wait again
  clear                     take out all that are done
  run                       train them; Ctrl-C stops and saves, and the next time that run continues first
      --on_end COMMAND      command or http(s) address that is told how each run ended

A run that fails does not stop the others. After a crash or a power cut, `run` continues with the newest checkpoint.
The queue is in user/queue; --queue names another folder, such as one for each GPU."""
ON_STOP = "Stopping: the run will be saved after this step, then the queue ends. Press again to quit without saving."
Work = Callable[[RunQueue, Sequence[str]], int]


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line or settings, 128 + signal when stopped and saved."""
    if {"-h", "--help"} & set(argv[:2]):
        sys.stdout.write(f"{HELP}\n")
        return 0
    try:
        folder, words = _folder_of(list(argv))
        word, *rest = words or ["list"]
        if word not in WORDS:
            raise _wrong(printable(word), "there is no such command.")
        return WORDS[word](RunQueue(folder), rest)
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"The queue cannot be read or written: {plain_reason(error)}.\n")
        return 1


def _folder_of(words: list[str]) -> tuple[Path, list[str]]:
    """The queue's folder, and what else is on the command line. Raises SettingsError."""
    if words[:1] != ["--queue"]:
        return UserFiles().folder / "queue", words
    if len(words) < 2:
        raise _wrong("--queue", "the folder is missing.")
    return Path(words[1]).absolute(), words[2:]


def _list(queue: RunQueue, words: Sequence[str]) -> int:
    _require_count(words, 0)
    runs = queue.runs()
    if not runs:
        sys.stdout.write(f"The queue is empty. Add a run: {LAUNCHER} queue add --config FILE\n")
    is_run = queue.is_being_run()
    for run in runs:
        sys.stdout.write(f"{line_of(run, is_run=is_run)}\n")
    return 0


def line_of(run: QueuedRun, *, is_run: bool) -> str:
    """A run in a line; `is_run` says whether a program runs the queue now."""
    state = "interrupted" if run.state == "running" and not is_run else run.state
    parts = [f"{run.number:>4}  {state:<11}", run.project, Path(run.folder).name, run.text]
    return visible_line("  ".join(filter(None, parts)))


def _add(queue: RunQueue, words: Sequence[str]) -> int:
    run = queue.add(_checked(cli.parse(words)))
    sys.stdout.write(f"Added run {run.number}, {printable(run.project)}. Train it: {LAUNCHER} queue run\n")
    return 0


def _edit(queue: RunQueue, words: Sequence[str]) -> int:
    (number,) = _numbers(words[:1], 1)
    given = cli.parse(words[1:])
    command = replace(given, values={**queue.settings_of(number), **given.values})
    queue.change(number, _checked(command))
    sys.stdout.write(f"Changed run {number}.\n")
    return 0


def _checked(command: cli.CommandLine) -> Mapping[str, object]:
    """The settings of a command line, as a start would take them. Raises SettingsError."""
    if command.on_end is not None:
        raise _wrong("--on_end", "it is for the program that runs the queue; no run keeps it.")
    if command.check or command.suggest or command.test_steps:
        raise _wrong("--check, --suggest and --test_resume", "they start no run, so they cannot be queued.")
    require_valid(command)
    return gather(command.values, command.config).values


def _move(queue: RunQueue, words: Sequence[str]) -> int:
    number, place = _numbers(words, 2)
    queue.move(number, place - 1)
    return _list(queue, ())


def _remove(queue: RunQueue, words: Sequence[str]) -> int:
    for number in _numbers(words, max(1, len(words))):
        queue.remove(number)
    return _list(queue, ())


def _retry(queue: RunQueue, words: Sequence[str]) -> int:
    queue.retry(*_numbers(words, 1))
    return _list(queue, ())


def _clear(queue: RunQueue, words: Sequence[str]) -> int:
    _require_count(words, 0)
    queue.remove_done()
    return _list(queue, ())


def _run(queue: RunQueue, words: Sequence[str]) -> int:
    """Train every run that waits."""
    on_end = OnEnd(_on_end_of(words)).require_valid()
    require_temporary_folder()
    signals: list[int] = []
    running: list[RelayedControls] = []

    def stop(number: int) -> None:
        signals.append(number)
        for controls in running[-1:]:
            controls.stop(number)

    def train(values: Mapping[str, object], watch: Observer) -> RunEnded:
        controls = RelayedControls()
        running.append(controls)
        if signals:  # it came between two runs
            controls.stop(signals[0])
        return _train(values, watch, controls, on_end)

    ended: list[str] = []
    with queue.only_runner(), stopping_on_signals(stop, ON_STOP):
        while not signals and (state := run_next(queue, train)):
            ended.append(state)
    _list(queue, ())
    sys.stdout.write(f"{counted(ended.count('done'), 'run')} done, {ended.count('failed')} failed.\n")
    return 128 + signals[0] if signals else int("failed" in ended)


def _on_end_of(words: Sequence[str]) -> str | None:
    """What `--on_end` gives, the only word that `run` takes. Raises SettingsError."""
    flag, equals, text = " ".join(words[:1]).partition("=")
    if flag != "--on_end":
        _require_count(words, 0)
        return None
    _require_count(words, 1 if equals else 2)
    return text if equals else words[1]


def _train(values: Mapping[str, object], watch: Observer, controls: RelayedControls, on_end: OnEnd) -> RunEnded:
    """Train one run with everything that a start by the command line shows."""
    from ed2.app.reporters.console import ConsoleReporter

    with closing(ConsoleReporter()) as console:
        bus = EventBus([watch, console])
        with on_end.following(bus):
            return train_by_settings(values, bus=bus, controls=controls, read_libraries=read_libraries)


def _numbers(words: Sequence[str], count: int) -> list[int]:
    """The whole numbers on a command line. Raises SettingsError unless there are so many."""
    _require_count(words, count)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 9):
            raise _wrong(printable(word), "it is not the number of a run; `list` shows them.")
    return [int(word) for word in words]


def _require_count(words: Sequence[str], count: int) -> None:
    if len(words) != count:
        raise _wrong(" ".join(map(printable, words)) or "(nothing)", f"{counted(count, 'value')} expected.")


def _wrong(what: str, why: str) -> SettingsError:
    return SettingsError("Invalid command line:", [Problem(what, why, f"Usage: {USE}")])


WORDS: Mapping[str, Work] = {
    "list": _list,
    "add": _add,
    "edit": _edit,
    "move": _move,
    "remove": _remove,
    "retry": _retry,
    "clear": _clear,
    "run": _run,
}
