"""What is wrong with a start, seen before anything is read: all of it at once, each with the name of its setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.app.checks.base_model import base_problems
from ed2.app.checks.space import require_room
from ed2.app.preflight import OTHER_FOLDER, model_sizes, not_writable, require_writable, written_to
from ed2.app.run_settings import FIND_LAST
from ed2.checkpoint.room import existing
from ed2.data.manifest import is_manifest
from ed2.disk import why_not_writable
from ed2.errors import Problem, SettingsError, printable
from ed2.models.families.facts import trainable_titles
from ed2.settings.checks import wrong_settings
from ed2.settings.cli import CommandLine
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.settings.gather import SETTINGS_IN_FILES, gather
from ed2.settings.legacy import translated
from ed2.settings.schema import Settings


@dataclass(frozen=True)
class Fixes:
    """Where a person gives what a run needs: in words for the page, or for the command line."""

    folder: str
    missing_folder: str
    model: str


ON_PAGE = Fixes(
    folder="Choose one in the Dataset tab.",
    missing_folder="Check the spelling, or choose it in the Dataset tab.",
    model="Choose one in the Settings tab, or resume a run in the Resume tab.",
)
ON_COMMAND_LINE = Fixes(
    folder="Give it with --data_root.",
    missing_folder="Check it for typing errors.",
    model=f"Set --resume_ckpt to a diffusers folder or a .safetensors file of an {trainable_titles()} model, or to a "
    "checkpoint of a run.",
)


def require_right(command: CommandLine) -> None:
    """See that nothing is wrong with a command line: flags, values and paths are told together.

    A single path that is named and not there is left to those who read it: its exit code is another.

    Raises:
        SettingsError: lists everything that is wrong.
    """
    problems, is_read = list(command.problems), True
    try:
        values = gather(command.values, command.config).values
    except SettingsError as error:
        problems += error.problems
        typed = translated(command.values).values
        values, is_read = {name: value for name, value in typed.items() if name not in SETTINGS_IN_FILES}, False
    try:
        settings = with_defaults(values)
    except SettingsError as error:
        problems += error.problems
    else:
        problems += [] if command.suggest else _of_validation(settings)
        problems += [] if command.check or command.suggest else _of_places(settings, values)
    begins = is_read and not (command.check or command.suggest or values.get("resume_ckpt"))
    asked = {**_not_given(), **values} if begins else values
    missing = [] if command.suggest else _folders(asked, ON_COMMAND_LINE)
    if "resume_ckpt" in asked and not (command.check or command.suggest):
        missing += _model(asked, ON_COMMAND_LINE)
    if problems or begins or len({problem.path for problem in missing}) > 1:
        told = {(problem.path or "").removeprefix("--") for problem in problems}
        raise wrong_settings([*problems, *(problem for problem in missing if problem.path not in told)])


def _not_given() -> dict[str, object]:
    """What a run has that names neither model nor images: the default folder, if there is one."""
    folders = [str(PROGRAM_DIR / root) for root in Settings().data.data_root]
    return {"data_root": folders if all(map(_is_there, folders)) else None, "resume_ckpt": None}


def start_problems(values: Mapping[str, object]) -> list[Problem]:
    """Everything that would keep a run with these flat, absolute values from starting, without reading an image."""
    problems: list[Problem] = []
    try:
        settings = with_defaults(values)
        problems += _of_validation(settings)
        require_writable(settings)
        require_room(settings, model_sizes(settings))
    except SettingsError as error:
        problems += error.problems
    told = {problem.path for problem in problems}
    return problems + [p for p in (*_folders(values, ON_PAGE), *_model(values, ON_PAGE)) if p.path not in told]


def _folders(values: Mapping[str, object], fixes: Fixes) -> list[Problem]:
    if "data_root" not in values:  # the run that is continued says which
        return []
    roots = values["data_root"]
    texts = [text for text in roots if isinstance(text, str)] if isinstance(roots, list | tuple) else []
    if not texts:
        return [Problem("data_root", "no folder of images is given.", fixes.folder)]
    missing = [text for text in texts if not _is_there(text)]
    return [Problem("data_root", f"there is no folder {printable(text)}.", fixes.missing_folder) for text in missing]


def _of_validation(settings: Settings) -> list[Problem]:
    """Folders to validate with, and the average to begin with, that are not there."""
    wanted, average = settings.validation, settings.ema.ema_resume_model
    named = [("manual_data_root", wanted.manual_data_root or "")] if wanted.val_split_mode == "manual" else []
    named += [("extra_manual_datasets", text.partition("=")[2]) for text in wanted.extra_manual_datasets]
    problems = [Problem(name, f"there is no folder {printable(text)}.", "Check it for typing errors.")
                for name, text in named if text and not _is_there(text)]  # fmt: skip
    if settings.ema.is_on and average and average != FIND_LAST and not _is_there(average):
        fix = "Give a diffusers folder of the same model, or leave it out."
        problems.append(Problem("ema_resume_model", f"there is no folder {printable(average)}.", fix))
    return problems


def _of_places(settings: Settings, given: Mapping[str, object]) -> list[Problem]:
    """Folders to write to that were given and cannot be written; others may be those of a run that goes on."""
    return [Problem(name, not_writable(folder, reason), OTHER_FOLDER)
            for name, folder in written_to(settings).items()
            if name in given and (reason := why_not_writable(existing(folder)))]  # fmt: skip


def _is_there(text: str) -> bool:
    try:
        return Path(text).is_dir() or is_manifest(Path(text))
    except (OSError, ValueError):  # no folder can have such a name
        return False


def _model(values: Mapping[str, object], fixes: Fixes) -> list[Problem]:
    name = str(values.get("resume_ckpt") or "")
    if not name:
        return [Problem("resume_ckpt", "no base model is given.", fixes.model)]
    return base_problems(name)
