"""Problems of the base model and its VAE, each with its setting: the same for a check, the page and a start.

Needs no torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ed2.app.run_settings import FIND_LAST
from ed2.checkpoint.identity import is_ours, run_at, state_of
from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import VAE
from ed2.models.files.base_model import PUBLIC_NAME, SINGLE_FILES, base_model_problems, locate
from ed2.models.files.folder_problems import WHOLE_FOLDER
from ed2.settings.fields import fields
from ed2.terminal import LAUNCHER

SETTING = "resume_ckpt"
DOWNLOAD = f"{LAUNCHER} download"


def base_problems(values: Mapping[str, object]) -> list[Problem]:
    """Why the base model of flat settings cannot be trained; of a run or checkpoint, only whether it exists.

    The settings need not be complete or valid.
    """
    name, predicted, vae = (str(values.get(key) or "") for key in (SETTING, "prediction_type", VAE))
    if name in ("", FIND_LAST):
        return []
    place = locate(name)
    if place is None:
        return [not_here(SETTING, "model", name)]
    if _is_run_of_ours(place.path):
        return []
    other = None
    if vae:
        found = locate(vae)
        if found is None:
            return [not_here(VAE, "VAE", vae)]
        other = found.path
    problems = base_model_problems(place.path, prediction_type=predicted or None, vae=other, may_convert=True)
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
            fault = Problem(SETTING, ": ".join(places), fault.fix)
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
