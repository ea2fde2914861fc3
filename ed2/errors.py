"""The errors that a user may see, each with what to do about it.

    Ed2Error                      exit code 1
    ├── SettingsError             invalid settings, all of them listed                    exit code 2
    ├── DatasetError              there are no images to train on                         exit code 3
    ├── FinishedError             the run to resume has completed all its epochs          exit code 0
    ├── ModelError                the base model is missing, incomplete or not supported
    ├── CheckpointError           a checkpoint cannot be saved or resumed
    │   └── UnusableWeightsError  the current weights are not worth saving
    ├── RefusedError              a command of the user that cannot be carried out now
    ├── LogWriteError             a log cannot be written at the moment; the run continues
    └── TrainingError             the run cannot continue
        ├── ImagesLostError       none of its images can be read any more
        ├── DivergedError         losses or gradients stay infinite or NaN
        ├── MemoryFullError       out of memory, even with one image at a time
        ├── UpdateFailedError     an update failed partway, and the current weights are of no step
        └── RankError             another process of the run has failed or was lost

`StopRequested` is not an error: it ends the loop when a user asks for it. Neither is `RunLeft`.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ed2.text import visible_line


def printable(text: str, length: int = 60) -> str:
    """Return foreign text in a form that is safe in a message: escaped, and at most `length` characters."""
    text = visible_line(text[: 2 * length])
    if len(text) > length:
        return f"{text[: length - 3]}..."
    return text


def shown(value: object) -> str:
    """Return a foreign value in a form that is safe in a message, however large, deep or self-referential it is."""
    return printable(_Shortened().repr(value))


def first_line(error: BaseException) -> str:
    """The beginning of an error's text, for a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" If you want")[0]
    return printable(" ".join(line.split()).rstrip("."), 200)


class _Shortened(reprlib.Repr):
    """`repr` of the first part of a value only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 57, 57


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and how to fix it."""

    path: str | None
    """The file, folder or setting; None if it is about all of them."""
    what: str
    fix: str = ""
    is_warning: bool = False
    """Whether the run continues in spite of it."""

    def __str__(self) -> str:
        text = self.what
        if self.path:
            text = f"{visible_line(self.path)}: {text}"
        if self.fix:
            text += f" {self.fix}"
        return text


class Ed2Error(Exception):
    """An error that says what happened, why, and what to do; `str()` gives all three as sentences.

    `problems` is what is wrong, one by one: the error itself, unless it lists several.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        text = ": ".join(filter(None, (what, why)))
        if fix:
            text += f" {fix}"
        super().__init__(text)
        self.problems: tuple[Problem, ...] = (Problem(None, str(self)),)


class ProblemsError(Ed2Error):
    """An error that lists several problems."""

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        super().__init__("\n  ".join([what, *map(str, problems)]))
        self.problems = tuple(problems)


class SettingsError(ProblemsError):
    """Invalid settings; `problems` names each setting, its value and what is allowed."""

    exit_code = 2


class FinishedError(ProblemsError):
    """A run that has nothing left to train, which is not a failure."""

    exit_code = 0


class DatasetError(ProblemsError):
    """There are no images to train on."""

    exit_code = 3


class ModelError(ProblemsError):
    """A base model cannot be used."""


class CheckpointError(Ed2Error):
    """A checkpoint cannot be saved or resumed."""


class UnusableWeightsError(CheckpointError):
    """Weights that are not worth saving: infinite or NaN, or from an incomplete update."""


class LogWriteError(Ed2Error):
    """A log of the run cannot be written at the moment."""


class TrainingError(Ed2Error):
    """A run cannot continue."""


class ImagesLostError(TrainingError):
    """None of the images can be read any more."""


class DivergedError(TrainingError):
    """Losses or gradients are infinite or NaN, step after step."""


class MemoryFullError(TrainingError):
    """Out of memory, even with one image at a time."""


class UpdateFailedError(TrainingError):
    """An update of the weights that failed partway."""


class RankError(TrainingError):
    """Another process of the run has failed or was lost."""


class RefusedError(Ed2Error):
    """A command of the user that cannot be carried out now."""


class StopRequested(BaseException):
    """Raised between two steps to stop the run; `signal_number` is the signal that asked for it, 0 for a button."""

    def __init__(self, signal_number: int = 0, *, save: bool = True) -> None:
        self.signal_number, self.save = signal_number, save
        super().__init__(f"stop requested (signal {signal_number})")


class RunLeft(BaseException):
    """Raised in the other processes of a run when the first one has left it, for whatever reason."""
