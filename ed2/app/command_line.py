"""What the commands share: help, flags and words, and all that is wrong with them."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ed2.errors import Ed2Error, Problem, SettingsError, printable

PRECISIONS = ("fp32", "fp16", "bf16")
SWITCH = {"action": "store_true"}


@dataclass(frozen=True, kw_only=True)
class CommandSyntax:
    """What a command takes and does; what is typed arrives as attributes with the names of the flags, and as `words`.

    Attributes:
        use: what to type, without flags.
        help: the flags, and what the command does.
        perform: does it; returns the exit code if that is not 0, and may raise Ed2Error.
        needs: the words that it takes besides flags, for messages: "three paths".
        count: how many of these.
        flags: what argparse is told of each, by name.
        check: finds what else is wrong with them.
    """

    use: str
    help: str
    perform: Callable[[argparse.Namespace], int | None]
    needs: str = ""
    count: Sequence[int] = (0,)
    flags: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[[argparse.Namespace], Iterable[Problem]] = lambda given: ()

    def run(self, argv: Sequence[str]) -> int:
        """Read the command line and perform the command; 0 done, 1 failed, 2 wrong command line."""
        if {"-h", "--help"} & set(argv) or (self.needs and not argv):
            sys.stdout.write(f"{self.use} {self.help}\n")
            return 0
        try:
            return self.perform(self.read(argv)) or 0
        except Ed2Error as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """What was typed. Raises SettingsError, which lists everything that is wrong with it."""
        usage = f"Usage: {self.use}"
        parser = _Parser(add_help=False, allow_abbrev=False)
        for name, options in self.flags.items():
            parser.add_argument(f"--{name}", **options)
        try:
            given, rest = parser.parse_known_args(argv)
        except ValueError as error:
            raise SettingsError("Invalid command line:", [Problem(None, f"{error}.", usage)]) from None
        given.words = [text for text in rest if not text.startswith("-")]
        problems = [Problem(printable(text), "there is no such flag.") for text in rest if text.startswith("-")]
        if not self.needs:
            problems += [Problem(printable(text), "this is not expected here.", usage) for text in given.words]
        elif len(given.words) not in self.count:
            problems.append(Problem(None, f"this command needs {self.needs}, not {len(given.words)}.", usage))
        problems += self.check(given)
        if problems:
            raise SettingsError("Invalid command line:", problems)
        return given


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
