"""Settings in JSON files: presets to read, the settings of a run to write."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.disk import write_whole
from ed2.errors import Problem, SettingsError, printable
from ed2.settings.checks import is_plain, settings_from
from ed2.settings.fields import fields
from ed2.settings.legacy import translated
from ed2.settings.schema import Settings

PROGRAM_DIR = Path(__file__).resolve().parents[2]
"""The folder of the program: relative paths in presets and defaults count from here."""
TRAIN_COMMAND = "launch.bat train" if sys.platform == "win32" else "./launch.sh train"
"""How a person starts a run without the page: the launcher finds the Python that has the libraries."""

ABOUT = "about"
"""The one key of a preset that is no setting: title, for whom, where the figures come from."""

NAMED_FOLDERS = "extra_manual_datasets"
"""The one setting whose items are written name=folder."""
WORDS_OR_PATHS = ("resume_ckpt", "ema_resume_model")
"""Settings that may also hold the word `findlast` or a public name."""

MAX_BYTES = 1 << 20
SCRIPTS = (".bat", ".cmd", ".ps1", ".sh")
"""What the original's chains of runs are written as."""
MAX_DIGITS = 300
"""Of a whole number; one of over 308 cannot become a fraction."""


@dataclass(frozen=True)
class Preset:
    """What a settings file says."""

    path: Path
    values: Mapping[str, object]
    """Settings by their flat names, paths made absolute."""
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What has become of names of EveryDream 2 that are no settings."""


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON file that holds an object, such as the optimizer file of EveryDream 2.

    Raises:
        SettingsError: the file is missing, is no JSON object, has a key twice or a number that is none.
    """
    return _read_object(path)


def read_preset(path: Path) -> Preset:
    """Read a JSON file of flat settings; names of EveryDream 2 are read as ours, which the notes tell.

    Raises:
        SettingsError: the file is missing, is no JSON object, has a key twice or a number that is none.
    """
    values = _read_object(path)
    about = values.pop(ABOUT, {})
    if not isinstance(about, dict):
        raise _file_error(path, "about holds no texts.", "It is an object of texts: title, for, source.")
    known = translated(values)
    texts = {str(k): str(v) for k, v in about.items()}
    told = known.told_of(path.name) if known.is_of_original else []
    notes = [*told, *_chain_note(path)]
    return Preset(path, absolute_paths(known.values, PROGRAM_DIR), texts, tuple(notes))


def _chain_note(path: Path) -> list[str]:
    """What is to be said of a file that bears the name of one of several."""
    if not re.fullmatch(r"chain\d+", path.stem, re.IGNORECASE):
        return []
    return [
        f"{path.name} is one file of a chain: runs that follow one another by themselves will come later. Give the "
        "next one when this has ended; with resume_ckpt findlast it goes on from here."
    ]


def write_settings(path: Path, settings: Settings) -> None:
    """Write `settings` as a preset that starts the same run, whole or not at all."""
    write_whole(path, (json.dumps(settings.flat(), indent=2, ensure_ascii=False) + "\n").encode())


def absolute_paths(values: Mapping[str, object], base: Path) -> dict[str, object]:
    """Count relative paths among `values` from `base`, and take off quotes around a path.

    A base model may also be a word (`findlast`) or a public name (`owner/model`): it is a path only if it is there.
    """
    result = dict(values)
    for name, value in values.items():
        spec = fields().get(name)
        if spec is None or not spec.is_path:
            continue
        if isinstance(value, str) and value:
            result[name] = _absolute(value, base, must_exist=name in WORDS_OR_PATHS)
        elif isinstance(value, list | tuple):
            named = name == NAMED_FOLDERS
            result[name] = [_absolute(v, base, named=named) if isinstance(v, str) and v else v for v in value]
    return result


def with_defaults(values: Mapping[str, object]) -> Settings:
    """Check `values`; relative paths among the defaults count from the program's folder.

    Raises:
        SettingsError: lists everything that is wrong.
    """
    return settings_from(absolute_paths({**Settings().flat(), **values}, PROGRAM_DIR))


def _absolute(text: str, base: Path, *, must_exist: bool = False, named: bool = False) -> str:
    if not is_plain(text):
        return text  # the checks refuse it
    text = unquoted(text) or text
    if named and "=" in text:
        name, _, folder = text.partition("=")
        return f"{name}={_absolute(folder, base)}" if folder else text
    path = (base / _at_home(text)).absolute()
    return text if must_exist and not _exists(path) else os.path.normpath(path)


def unquoted(path: str) -> str:
    """A path without the quotes around it that file managers copy with it."""
    inner = path.strip()
    is_quoted = len(inner) > 1 and inner[0] == inner[-1] and inner[0] in "\"'"
    return inner[1:-1] if is_quoted else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # its name is too long, or its folder may not be looked into
        return False


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of somebody who has no home here: then a folder may be called so
        return Path(text)


def _read_object(path: Path) -> dict[str, object]:
    if path.suffix.lower() in SCRIPTS:
        raise _chain_error(path)
    text = _text_of(path)
    try:
        values = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        fix = "Mend it in a text editor, or take a whole copy of it."
        raise _file_error(path, f"it is not proper JSON ({_reason(text, error)}).", fix) from None
    if isinstance(values, list) and values and all(isinstance(value, dict | str) for value in values):
        raise _chain_error(path)
    if not isinstance(values, dict):
        raise _file_error(path, "it holds no settings.", 'It has to be an object: {"max_epochs": 100, ...}.')
    return values


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _file_error(path, "it is larger than 1 MB.", "A settings file is a few kilobytes of JSON.")
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise OSError("it is not a file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _file_error(path, "there is no such file.", "Give the path of a settings file.") from None
    except UnicodeDecodeError as error:
        what = f"it cannot be read: it is not UTF-8 (byte {error.start:,})."
        raise _file_error(path, what, "Save it as UTF-8 text.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _file_error(path, f"it cannot be read ({reason}).", "Give the path of a settings file.") from None


def _reason(text: str, error: Exception) -> str:
    if not text.strip():
        return "it is empty"
    return "its brackets lie too deep in each other" if isinstance(error, RecursionError) else str(error)


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise ValueError(f"given twice: {', '.join(map(printable, twice[:5]))}")
    return values


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no number")


def _chain_error(path: Path) -> SettingsError:
    fix = "Give one of its files at a time; each goes on with --resume_ckpt findlast."
    return _file_error(path, "it is a chain of several runs, which will come later.", fix)


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is no setting")
    return int(text)


def _file_error(path: Path, what: str, fix: str) -> SettingsError:
    return SettingsError("The settings file cannot be used:", [Problem(printable(str(path), 1000), what, fix)])
