"""Problems of the base model, each with the name of its setting. Needs no torch."""

from collections.abc import Iterable
from pathlib import Path

from ed2.app.run_settings import FIND_LAST
from ed2.checkpoint.identity import is_ours, run_at, state_of
from ed2.errors import Problem, printable
from ed2.models.files.base_model import PUBLIC_NAME, base_model_problems, in_hub_cache, pickle_problem
from ed2.models.files.header import is_pickle
from ed2.settings.fields import fields

SETTING = "resume_ckpt"


def base_problems(name: str) -> list[Problem]:
    """Why a base model cannot be trained; of a run or checkpoint, only whether it exists."""
    path = Path(name)
    try:
        if name == FIND_LAST:
            return []
        if path.exists():
            return [] if _is_run_of_ours(path) else as_setting_problems(name, _problems_at(path))
    except (OSError, ValueError):  # no file can have such a name
        return [_no_such_model(name)]
    if not PUBLIC_NAME.fullmatch(name):
        return [_no_such_model(name)]
    return [] if in_hub_cache(name) else [not_on_disk(name)]


def _problems_at(path: Path) -> list[Problem]:
    """What keeps a folder or file from being a base model; one in PyTorch's own format is converted by the start."""
    if not is_pickle(path):
        return base_model_problems(path)
    problem = pickle_problem(path)
    return [problem] if problem else []


def as_setting_problems(name: str, faults: Iterable[Problem]) -> list[Problem]:
    """The problems of the base model `name`, attributed to its setting unless they name another one."""
    return [
        fault if fault.path in fields() else Problem(SETTING, _with_path(name, fault), fault.fix) for fault in faults
    ]


def not_on_disk(name: str) -> Problem:
    """The problem of a public model name that is not in this computer's cache."""
    fix = (
        f"Download it from huggingface.co/{name}, and set --resume_ckpt to the folder that contains model_index.json, "
        "or to its .safetensors file."
    )
    return Problem(SETTING, f"the model {name} is not on this disk, and nothing is downloaded.", fix)


def _no_such_model(name: str) -> Problem:
    return Problem(SETTING, f"there is no model {printable(name, 1000)}.", "Check the path for typos.")


def _is_run_of_ours(path: Path) -> bool:
    """Whether this is a run or a checkpoint, which is verified when it is opened."""
    return run_at(path) is not None or (path.is_dir() and (is_ours(path) or bool(state_of(path))))


def _with_path(name: str, fault: Problem) -> str:
    place = f"{printable(name, 1000)}: " + (f"{fault.path}: " if fault.path else "")
    return f"{place}{fault.what}"
