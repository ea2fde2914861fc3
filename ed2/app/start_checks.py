"""What is wrong with a start, seen before anything is read: all of it at once, each with the name of its setting."""

import re
from collections.abc import Mapping
from pathlib import Path

from ed2.app.preflight import model_sizes, require_writable
from ed2.app.space import require_room
from ed2.errors import Problem, SettingsError
from ed2.settings.files import with_defaults

FIND_LAST = "findlast"
_PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def start_problems(values: Mapping[str, object]) -> list[Problem]:
    """Everything that would keep a run with these flat, absolute values from starting, without reading a picture."""
    problems: list[Problem] = []
    try:
        settings = with_defaults(values)
        require_writable(settings)
        require_room(settings, model_sizes(settings))
    except SettingsError as error:
        problems += error.problems
    told = {problem.path for problem in problems}
    return problems + [p for p in (*_folders(values), *_model(values)) if p.path not in told]


def _folders(values: Mapping[str, object]) -> list[Problem]:
    if "data_root" not in values:  # the run that is continued says which
        return []
    roots = values["data_root"]
    texts = [text for text in roots if isinstance(text, str)] if isinstance(roots, list | tuple) else []
    if not texts:
        return [Problem("data_root", "no folder of pictures is given.", "Choose one in the tab Dataset.")]
    fix = "Check it for typing errors, or choose it in the tab Dataset."
    return [Problem("data_root", f"there is no folder {text}.", fix) for text in texts if not Path(text).is_dir()]


def _model(values: Mapping[str, object]) -> list[Problem]:
    name = str(values.get("resume_ckpt") or "")
    if not name:
        fix = "Give a model folder in the tab Settings, or continue a run in the tab Resume."
        return [Problem("resume_ckpt", "no base model is given.", fix)]
    if name == FIND_LAST or Path(name).exists() or _PUBLIC_NAME.fullmatch(name):
        return []
    return [Problem("resume_ckpt", f"there is no model {name}.", "Check the path for typing errors.")]
