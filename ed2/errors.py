"""What can go wrong, said for the person who has to mend it.

    Ed2Error                  exit code 1
    ├── SettingsError         wrong settings, all of them listed                        exit code 2
    ├── DatasetError          there is nothing to train on                              exit code 3
    ├── FinishedError         the run to continue has all its epochs                    exit code 0
    ├── ModelError            the base model is missing, incomplete or of another kind
    ├── CheckpointError       a checkpoint cannot be written or continued
    │   └── UnusableWeightsError      what is in memory is not worth to be saved
    ├── LogWriteError           what a run tells cannot be written down at present; the run goes on
    └── TrainingError         the run cannot go on
        ├── ImagesLostError not one of its images can be read any more
        ├── DivergedError     its numbers are not finite and stay so
        └── MemoryFullError   the memory does not suffice, however little is computed at once

`StopRequested` is no error: it is how the loop is left when a person asked for it.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


def printable(text: str, length: int = 60) -> str:
    """A text from elsewhere as it may stand in a message: what is no text spelled out, and not longer than `length`."""
    text = text[: 2 * length].encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
    return text if len(text) <= length else f"{text[: length - 3]}..."


def shown(value: object) -> str:
    """A value from elsewhere as it may stand in a message, however large and deep it is, or holds itself."""
    return printable(_Shortened().repr(value))


class _Shortened(reprlib.Repr):
    """`repr` that looks at the beginning only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 57, 57


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it."""

    path: str | None
    """The file, folder or setting that it is about; None when it is about the whole."""
    what: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.what}" + (f" {self.fix}" if self.fix else "")


class Ed2Error(Exception):
    """An error with what happened, why, and what to do; `str()` gives the three as sentences."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(": ".join(part for part in (what, why) if part) + (f" {fix}" if fix else ""))


class ProblemsError(Ed2Error):
    """An error that tells several problems at once."""

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join([what, *map(str, self.problems)]))


class SettingsError(ProblemsError):
    """Settings that cannot be used; `problems` names each setting, its value and what is allowed."""

    exit_code = 2


class FinishedError(ProblemsError):
    """A run that has nothing left to train, which is no failure."""

    exit_code = 0


class DatasetError(ProblemsError):
    """Nothing to train on."""

    exit_code = 3


class ModelError(ProblemsError):
    """A base model that cannot be used."""


class CheckpointError(Ed2Error):
    """A checkpoint that cannot be written or continued."""


class UnusableWeightsError(CheckpointError):
    """Weights that are not worth to be saved: not finite, or of half a step."""


class LogWriteError(Ed2Error):
    """What a run tells, that cannot be written down at present."""


class TrainingError(Ed2Error):
    """A run that cannot go on."""


class ImagesLostError(TrainingError):
    """Images of which not one can be read any more."""


class DivergedError(TrainingError):
    """Numbers that are not finite, step after step."""


class MemoryFullError(TrainingError):
    """Memory that does not suffice, however little is computed at once."""


class StopRequested(BaseException):
    """Raised between two steps when a stop was asked for; `signal_number` says by which signal, 0 for a button."""

    def __init__(self, signal_number: int = 0, *, save: bool = True) -> None:
        self.signal_number, self.save = signal_number, save
        super().__init__(f"stop requested (signal {signal_number})")
