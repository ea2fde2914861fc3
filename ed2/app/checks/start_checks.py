"""Everything that would keep a run from starting, each with its setting: the same for a check, the page and a start."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.app.checks.space import require_room
from ed2.app.preflight import OTHER_FOLDER, model_sizes, not_writable, require_writable, written_to
from ed2.app.run_settings import FIND_LAST
from ed2.checkpoint.identity import is_ours, run_at, state_of
from ed2.checkpoint.room import existing
from ed2.data.manifest import is_manifest
from ed2.disk import why_not_writable
from ed2.errors import ModelError, Problem, SettingsError, printable
from ed2.models.families.facts import FACTS, VAE, trainable_titles
from ed2.models.files.base_model import PUBLIC_NAME, SINGLE_FILES, base_model_problems, locate
from ed2.models.files.folder_problems import WHOLE_FOLDER
from ed2.settings.checks import fused_clipping, nothing_trained, wrong_settings
from ed2.settings.cli import CommandLine
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.settings.gather import SETTINGS_IN_FILES, gather
from ed2.settings.legacy import translated
from ed2.settings.schema import Settings
from ed2.terminal import LAUNCHER

DOWNLOAD = f"{LAUNCHER} download"


@dataclass(frozen=True)
class Fixes:
    """How to provide what a run needs, in words for the page or for the command line."""

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
    missing_folder="Check it for typos; a path with spaces needs quotes.",
    model=f"Set --resume_ckpt to a diffusers folder, .safetensors or .ckpt of an {trainable_titles()} model, or to a "
    f"checkpoint of a run. The models on this computer are listed by: {LAUNCHER} models",
)


def require_valid(command: CommandLine) -> None:
    """Check a command line: flags, values and paths are reported together.

    A single path that does not exist is left to the code that reads it, since it has its own exit code.

    Raises:
        SettingsError: lists everything that is wrong.
    """
    values, unread = _given_values(command)
    problems = [*command.problems, *unread, *_setting_problems(command, values)]
    no_model = not unread and _needs_model(command, values)
    if no_model:
        values = {**_default_paths(), **values}
    missing = _missing(command, values)
    if problems or no_model or len({problem.path for problem in missing}) > 1:
        raise wrong_settings(_without_repeats(problems, missing))


def _needs_model(command: CommandLine, values: Mapping[str, object]) -> bool:
    """Whether the command starts a run without naming a model."""
    return not (command.check or command.suggest or values.get("resume_ckpt"))


def _without_repeats(problems: Sequence[Problem], missing: Sequence[Problem]) -> list[Problem]:
    """The problems, and the missing paths of settings that have no other problem."""
    reported = {(problem.path or "").removeprefix("--") for problem in problems}
    return [*problems, *(problem for problem in missing if problem.path not in reported)]


def _given_values(command: CommandLine) -> tuple[Mapping[str, object], list[Problem]]:
    """The settings of a command line and its files; if a file cannot be read, those of the command line, and why."""
    try:
        return gather(command.values, command.config).values, []
    except SettingsError as error:
        typed = translated(command.values).values
        return {name: value for name, value in typed.items() if name not in SETTINGS_IN_FILES}, list(error.problems)


def _setting_problems(command: CommandLine, values: Mapping[str, object]) -> list[Problem]:
    try:
        settings = with_defaults(values)
    except SettingsError as error:
        return list(error.problems)
    if command.suggest:
        return []
    problems = _validation_problems(settings)
    # Only a flag tells that it was meant: the settings file of an earlier run holds its default too.
    given = command.values.get("clip_grad_norm")
    if settings.memory.fused_backward and given is not None:
        problems.append(fused_clipping(given))
    if not command.check:
        problems += _unwritable_problems(settings, values)
    return problems


def _missing(command: CommandLine, values: Mapping[str, object]) -> list[Problem]:
    """Folders and a model that are named or needed but do not exist."""
    if command.suggest:
        return []
    missing = _folders(values, ON_COMMAND_LINE)
    if "resume_ckpt" in values and not command.check:
        missing += _model(values, ON_COMMAND_LINE)
    return missing


def _default_paths() -> dict[str, object]:
    """The paths of a run that names neither model nor images: the default folder, if it exists."""
    folders = [str(PROGRAM_DIR / root) for root in Settings().data.data_root]
    return {"data_root": folders if all(map(is_root, folders)) else None, "resume_ckpt": None}


def start_problems(values: Mapping[str, object]) -> list[Problem]:
    """Everything that would keep a run with these flat, absolute values from starting, without reading an image."""
    problems: list[Problem] = []
    try:
        settings = with_defaults(values)
        problems += _validation_problems(settings)
        require_writable(settings)
        sizes = model_sizes(settings)
        problems += nothing_trained(settings, FACTS[sizes.family])
        require_room(settings, sizes)
    except SettingsError as error:
        problems += error.problems
    return _without_repeats(problems, [*_folders(values, ON_PAGE), *_model(values, ON_PAGE)])


def _folders(values: Mapping[str, object], fixes: Fixes) -> list[Problem]:
    if "data_root" not in values:  # the resumed run names them
        return []
    roots, texts = values["data_root"], []
    if isinstance(roots, list | tuple):
        texts = [text for text in roots if isinstance(text, str)]
    if not texts:
        return [Problem("data_root", "no folder of images is given.", fixes.folder)]
    missing = [text for text in texts if not is_root(text)]
    return [Problem("data_root", f"there is no folder {printable(text)}.", fixes.missing_folder) for text in missing]


def _validation_problems(settings: Settings) -> list[Problem]:
    """Validation folders, and the EMA to start from, that do not exist."""
    wanted, average = settings.validation, settings.ema.ema_resume_model
    named = []
    if wanted.val_split_mode == "manual":
        named.append(("manual_data_root", wanted.manual_data_root or ""))
    named += [("extra_manual_datasets", text.partition("=")[2]) for text in wanted.extra_manual_datasets]
    problems = []
    for name, text in named:
        if text and not is_root(text):
            problems.append(Problem(name, f"there is no folder {printable(text)}.", "Check it for typos."))
    if settings.ema.is_on and average and average != FIND_LAST and not is_root(average):
        fix = "Give a diffusers folder of the same model, or leave it out."
        problems.append(Problem("ema_resume_model", f"there is no folder {printable(average)}.", fix))
    return problems


def _unwritable_problems(settings: Settings, given: Mapping[str, object]) -> list[Problem]:
    """Folders that were given and cannot be written; the others may come from the resumed run."""
    problems = []
    for name, folder in written_to(settings).items():
        if name in given and (reason := why_not_writable(existing(folder))):
            problems.append(Problem(name, not_writable(folder, reason), OTHER_FOLDER))
    return problems


def is_root(text: str) -> bool:
    """Whether this is a folder, or a manifest, that images can be read from."""
    try:
        return Path(text).is_dir() or is_manifest(Path(text))
    except (OSError, ValueError):  # no folder can have such a name
        return False


def _model(values: Mapping[str, object], fixes: Fixes) -> list[Problem]:
    name = str(values.get("resume_ckpt") or "")
    if not name:
        return [Problem("resume_ckpt", "no base model is given.", fixes.model)]
    return base_problems(values)


def base_problems(values: Mapping[str, object]) -> list[Problem]:
    """Why the base model of flat settings cannot be trained; of a run or checkpoint, only whether it exists.

    The settings need not be complete or valid.
    """
    name, predicted, vae = (str(values.get(key) or "") for key in ("resume_ckpt", "prediction_type", VAE))
    if name in ("", FIND_LAST):
        return []
    place = locate(name)
    if place is None:
        return [not_here("resume_ckpt", "model", name)]
    if _is_run_of_ours(place.path):
        return []
    other = None
    if vae:
        found = locate(vae)
        if found is None:
            return [not_here(VAE, "VAE", vae)]
        other = found.path
    problems = base_model_problems(place.path, prediction_type=predicted or None, vae=other)
    if not Path(name).exists():
        problems = [_of_download(name, problem) for problem in problems]
    return as_setting_problems(name, problems)


def require_base(values: Mapping[str, object]) -> None:
    """Raise ModelError, with the problems that a check lists, unless the base model can be trained."""
    if problems := base_problems(values):
        raise ModelError("The base model cannot be used:", problems)


def as_setting_problems(name: str, faults: Iterable[Problem]) -> list[Problem]:
    """The problems of the base model `name`, attributed to its setting unless they name another one."""
    problems = []
    for fault in faults:
        if fault.path not in fields():
            places = filter(None, (printable(name, 1000), fault.path, fault.what))
            fault = Problem("resume_ckpt", ": ".join(places), fault.fix)
        problems.append(fault)
    return problems


def not_here(setting: str, noun: str, name: str) -> Problem:
    """The problem of a path that does not exist, or of a public name that is not in this computer's cache."""
    # A public name has a file in its third place at the earliest: models/anna.safetensors is a path.
    is_file = name.endswith(SINGLE_FILES) and name.count("/") < 2
    if is_file or not PUBLIC_NAME.fullmatch(name) or ".." in name.split("/"):
        return Problem(setting, f"there is no {noun} {printable(name, 1000)}.", "Check the path for typos.")
    what = f"the {noun} {printable(name, 1000)} is not on this computer, and a run downloads nothing."
    return Problem(setting, what, f"Check the path for typos, or download it first: {DOWNLOAD} {name}")


def _of_download(name: str, problem: Problem) -> Problem:
    """The problem of a model that was downloaded, perhaps not to the end."""
    if problem.fix != WHOLE_FOLDER:
        return problem
    return Problem(problem.path, problem.what, f"Download what is missing: {DOWNLOAD} {name}")


def _is_run_of_ours(path: Path) -> bool:
    """Whether this is a run or a checkpoint, which is verified when it is opened."""
    return run_at(path) is not None or (path.is_dir() and (is_ours(path) or bool(state_of(path))))
