"""The command line of the commands that take three paths. Needs no torch."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ed2.disk import require_temporary_folder
from ed2.errors import Ed2Error, Problem, SettingsError, printable

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class PathsCommand:
    """A command that takes three paths: `base`, `second` and `target`.

    Attributes:
        use: what to type, without flags.
        help: the flags, and what the command does.
    """

    use: str
    help: str

    def run(
        self,
        argv: Sequence[str],
        add_flags: Callable[[argparse.ArgumentParser], None],
        perform: Callable[[argparse.Namespace], None],
    ) -> int:
        """Read the command line and perform the command; 0 done, 1 failed, 2 wrong command line."""
        if {"-h", "--help"} & set(argv):
            sys.stdout.write(f"{self.use} {self.help}\n")
            return 0
        try:
            flags = self._parse(argv, add_flags)
            require_temporary_folder()
            perform(flags)
        except Ed2Error as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        return 0

    def _parse(self, argv: Sequence[str], add_flags: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
        """Raises SettingsError."""
        parser = _Parser(add_help=False, allow_abbrev=False)
        add_flags(parser)
        try:
            flags, rest = parser.parse_known_args(argv)
        except ValueError as error:
            raise SettingsError("Invalid command line:", [Problem(None, f"{error}.", f"Usage: {self.use}")]) from None
        problems = [Problem(printable(text), "there is no such flag.") for text in rest if text.startswith("-")]
        paths = [Path(text) for text in rest if not text.startswith("-")]
        if len(paths) != 3:
            problems.append(Problem(None, f"three paths are needed, not {len(paths)}.", f"Usage: {self.use}"))
        if problems:
            raise SettingsError("Invalid command line:", problems)
        flags.base, flags.second, flags.target = paths
        return flags


class _Parser(argparse.ArgumentParser):
    """Raises its complaints instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(printable(message.removeprefix("argument ")))


def number(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    """What reads a number of a kind within bounds, both included; 0 as the lower bound is not."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(low - 1)
        if not low <= value <= high or (low == 0 and value == 0):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text} is not {what} from {low} to {high}")
        return value

    return read
