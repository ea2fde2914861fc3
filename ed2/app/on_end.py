"""`on_end`: a command to run or a web address to call when a run has ended.

It may start any program, so it comes from the command line, or from a file in the user's folder that no part of the
page writes. It is no setting: no form, preset, run, log or report can hold it, and a settings file that names it is
refused.
"""

import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ed2.app.ranks.launcher import LIFELINE
from ed2.app.reporters.log import LogReporter, describe_end
from ed2.app.user_files import UserFiles
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, FinishedError, Problem, SettingsError, StopRequested, printable
from ed2.events import Event, EventBus, RunEnded, RunStarted, Warned
from ed2.ranks.place import LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE
from ed2.settings.files import unquoted
from ed2.small_files import read_beginning

FILE_NAME = "on_end.conf"
"""Not `.txt`: a caption that is saved from the page can never become a command."""
SECONDS = 60.0
"""How long a command may take, and each wait for an address."""
MAX_BYTES = 10_000
MAX_TEXT = 2000
OF_A_RANK = (LIFELINE, RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT)
ADDRESS = ("http://", "https://")


def _environment() -> dict[str, str]:
    """Of this program, without what makes it one of several processes, so that the command may start another run."""
    return {name: value for name, value in os.environ.items() if name not in OF_A_RANK}


@dataclass(frozen=True)
class OnEnd:
    """What is told how a run ended.

    Attributes:
        given: of the command line; empty for nothing, None for what the file holds.
        folder: the folder of the file.
        environment: of the command, as it was before the program set anything in its own.
    """

    given: str | None = field(default=None, repr=False)
    folder: Path = field(default_factory=lambda: UserFiles().folder)
    environment: Mapping[str, str] = field(default_factory=_environment, repr=False)

    def require_valid(self) -> "OnEnd":
        """Itself. Raises SettingsError if it is neither an address nor a command of this computer."""
        self._target()
        return self

    @contextmanager
    def following(self, bus: EventBus) -> Iterator[None]:
        """Tell how the run within this block ends, once its files are closed and its folder is free.

        A run that fails before it has started counts; one that was stopped before that, or was done already, does not.
        """
        folders: list[Path] = []
        ends: list[RunEnded] = []

        def watch(event: Event) -> None:
            if isinstance(event, RunStarted):
                folders.append(event.run_dir)
            elif isinstance(event, RunEnded):
                ends.append(event)

        bus.subscribe(watch)
        try:
            yield
        except (FinishedError, StopRequested):
            raise
        except Exception as error:
            reason = error.what if isinstance(error, Ed2Error) else f"{type(error).__name__}: {error}"
            ends.append(RunEnded(0, "failed", reason, 0.0))
            raise
        finally:
            if ends:
                self._tell(ends[-1], folders[-1] if folders else None, bus)

    def _tell(self, ended: RunEnded, run_dir: Path | None, bus: EventBus) -> None:
        """Run the command or call the address; a failure is a warning, in the run's log too."""
        try:
            target = self._target()
            if isinstance(target, str):
                fault = _call(target, ended, run_dir)
            else:
                fault = _run(target, {**self.environment, **_variables(ended, run_dir)})
        except SettingsError as error:
            fault = " ".join(map(str, error.problems))
        if fault:
            _warn(f"on_end failed, and the run is not affected: {fault}", ended.step, run_dir, bus)

    def _target(self) -> str | list[str]:
        """An address, or the arguments of a command; none for nothing. Raises SettingsError."""
        text, place = self.given, "--on_end"
        if text is None:
            place = f"user/{FILE_NAME}"
            text = _line_of(self.folder / FILE_NAME, place)
        text = text.strip()
        if text.lower().startswith(ADDRESS):
            return _checked_address(text, place)
        return _arguments(text, place, self.environment) if text else []


def split_command(text: str, *, on_windows: bool = sys.platform == "win32") -> list[str]:
    """The arguments of a command; no shell reads it. Raises ValueError if a quote is not closed."""
    words = shlex.split(text, posix=not on_windows)
    return [unquoted(word) for word in words] if on_windows else words


def _line_of(file: Path, place: str) -> str:
    """The line of the file; empty without one. Raises SettingsError."""
    try:
        lines = read_beginning(file, MAX_BYTES).decode("utf-8-sig").strip().splitlines()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, ValueError) else plain_reason(error)
        raise _wrong(place, f"it cannot be read: {reason}.", "Save it as a text file of one line.") from None
    if len(lines) > 1:
        raise _wrong(place, "it has more than one line.", "Put one command or address into it.")
    return lines[0] if lines else ""


def _checked_address(text: str, place: str) -> str:
    try:
        parts = urlsplit(text)
        is_valid = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_valid = False
    if not is_valid or not text.isascii() or not text.isprintable() or " " in text:
        fix = "Give one such as https://example.com/hook, without a user name in it."
        raise _wrong(place, "the address is not valid.", fix)
    return text


def _arguments(text: str, place: str, environment: Mapping[str, str]) -> list[str]:
    try:
        words = split_command(text)
    except ValueError:
        raise _wrong(place, "the command has a quote that is not closed.", "Close it.") from None
    program = shutil.which(words[0], path=environment.get("PATH")) if words else None
    if program is None:
        fix = "Give its whole path. No shell reads the command: for what only a shell can do, name a script."
        raise _wrong(place, "the program of the command is not on this computer.", fix)
    return [program, *words[1:]]


def _wrong(place: str, what: str, fix: str) -> SettingsError:
    return SettingsError("on_end cannot be used:", [Problem(place, what, fix)])


def _variables(ended: RunEnded, run_dir: Path | None) -> dict[str, str]:
    folder = str(run_dir.absolute()) if run_dir else ""
    return {"ED2_STATE": ended.phase, "ED2_RUN": folder, "ED2_STEP": str(ended.step), "ED2_TEXT": _text_of(ended)}


def _text_of(ended: RunEnded) -> str:
    return printable(describe_end(ended), MAX_TEXT)


def _run(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Run a command, whose output goes to the terminal; returns why it failed, without what it is."""
    if not arguments:
        return ""
    try:
        code = subprocess.run(
            arguments, env=environment, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        fix = "Have it start long work in the background."
        return f"the command took longer than {SECONDS:g} seconds and was ended. {fix}"
    except (OSError, ValueError) as error:
        reason = plain_reason(error) if isinstance(error, OSError) else "it contains a character that it cannot have"
        return f"the command cannot be started: {reason}. Try it in a terminal."
    return f"the command exited with code {code}. What it printed is in the terminal." if code else ""


def _call(address: str, ended: RunEnded, run_dir: Path | None) -> str:
    """Post to an address; returns why that failed, without the address, which may hold a key."""
    run = run_dir.name if run_dir else ""  # not where it is: that names the user
    content = {"state": ended.phase, "run": run, "step": ended.step, "text": _text_of(ended)}
    headers = {"Content-Type": "application/json", "User-Agent": "EveryDream"}
    request = urllib.request.Request(address, json.dumps(content).encode(), headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"the address answered with HTTP status {error.code}. Check the address."
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        reason = plain_reason(cause) if isinstance(cause, OSError) else type(cause).__name__
        reason = reason.replace(str(urlsplit(address).hostname), "it")
        return f"the address cannot be reached: {printable(reason, 200)}. Check the address and the network."


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its content."""

    def redirect_request(self, *args: object, **named: object) -> None:
        return None


def _warn(text: str, step: int, run_dir: Path | None, bus: EventBus) -> None:
    log = LogReporter(run_dir) if run_dir and run_dir.is_dir() else None
    if log:
        bus.subscribe(log)
    bus.emit(Warned(step, text))
    if log:
        bus.unsubscribe(log)
        log.close()
