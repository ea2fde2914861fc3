"""Settings in JSON files: presets to read, the settings of a run to write."""

import json
import os
import re
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
from ed2.small_files import exists, open_file
from ed2.terminal import LAUNCHER

PROGRAM_DIR = Path(__file__).resolve().parents[2]
"""The program's folder: relative paths in presets and defaults start here."""
TRAIN_COMMAND = f"{LAUNCHER} train"
"""The command that starts a run without the page."""

ABOUT = "about"
"""The one key of a preset that is not a setting: title, for whom, where the figures come from."""

NAMED_FOLDERS = "extra_manual_datasets"
"""The only setting whose items are written name=folder."""
WORDS_OR_PATHS = ("resume_ckpt", "vae", "ema_resume_model")
"""Settings that may also hold the word `findlast` or a public name."""

MAY_BE_NONE = "sample_prompts"
"""The path that may be empty or `none`, for no samples."""

MAX_BYTES = 1 << 20
SCRIPTS = (".bat", ".cmd", ".ps1", ".sh")
"""File types of EveryDream 2's chains of runs."""
MAX_DIGITS = 300
"""Most digits of a whole number; with more than 308 it cannot become a float."""


@dataclass(frozen=True)
class Preset:
    """The content of a settings file."""

    path: Path
    values: Mapping[str, object]
    """Settings by their flat names, with absolute paths."""
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What became of names of EveryDream 2 that are not settings here."""


def read_settings_file(path: Path) -> dict[str, object]:
    """Read a JSON file with one object, such as the optimizer file of EveryDream 2.

    Raises:
        SettingsError: the file is missing or not a JSON object, or has a duplicate key or an invalid number.
    """
    if path.suffix.lower() in SCRIPTS:
        raise _chain_error(path)
    text = _text_of(path)
    try:
        values = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        fix = "Fix it in a text editor, or use an undamaged copy."
        raise _file_error(path, f"it is not valid JSON ({_reason(text, error)}).", fix) from None
    if isinstance(values, list) and values and all(isinstance(value, dict | str) for value in values):
        raise _chain_error(path)
    if not isinstance(values, dict):
        raise _file_error(path, "it contains no settings.", 'It must be an object: {"max_epochs": 100, ...}.')
    return values


def read_preset(path: Path) -> Preset:
    """Read a JSON file of flat settings; names of EveryDream 2 are read as ours, which the notes report.

    Raises:
        SettingsError: the file is missing or not a JSON object, or has a duplicate key or an invalid number.
    """
    values = read_settings_file(path)
    about = values.pop(ABOUT, {})
    if not isinstance(about, dict):
        raise _file_error(path, "about is not an object of texts.", "Give it texts: title, for, source.")
    known = translated(values)
    notes = []
    if known.is_from_original:
        notes = known.notes_for(path.name)
    if re.fullmatch(r"chain\d+", path.stem, re.IGNORECASE):
        notes = [
            *notes,
            f"{path.name} is one file of a chain; chains of runs are not supported yet. Start the next file when this "
            "run has ended; with resume_ckpt findlast it continues from here.",
        ]
    texts = {str(key): str(text) for key, text in about.items()}
    return Preset(path, absolute_paths(known.values, PROGRAM_DIR), texts, tuple(notes))


def write_settings(path: Path, settings: Settings) -> None:
    """Write `settings` as a preset that starts the same run, completely or not at all."""
    write_whole(path, (json.dumps(settings.flat(), indent=2, ensure_ascii=False) + "\n").encode())


def absolute_paths(values: Mapping[str, object], base: Path) -> dict[str, object]:
    """Resolve relative paths among `values` from `base`, and remove quotes around paths.

    A base model may also be `findlast` or a public name (`owner/model`); it is a path only if the path exists.
    """
    result = dict(values)
    for name, value in values.items():
        spec = fields().get(name)
        if spec is None or not spec.is_path:
            continue
        if name == MAY_BE_NONE and isinstance(value, str) and value.strip().lower() in ("", "none"):
            result[name] = ""
        elif isinstance(value, str) and value:
            result[name] = _absolute(value, base, must_exist=name in WORDS_OR_PATHS)
        elif isinstance(value, list | tuple):
            result[name] = [_absolute_item(item, base, named=name == NAMED_FOLDERS) for item in value]
    return result


def typed_path(text: str) -> Path:
    """The path that a person has typed or pasted, from the current folder."""
    return Path(_absolute(text, Path.cwd()))


def with_defaults(values: Mapping[str, object]) -> Settings:
    """Check `values` and add the defaults, whose relative paths count from the program's folder.

    Raises:
        SettingsError: lists everything that is wrong.
    """
    return settings_from(absolute_paths({**Settings().flat(), **values}, PROGRAM_DIR))


def _absolute_item(item: object, base: Path, *, named: bool) -> object:
    if not isinstance(item, str) or not item:
        return item
    name, equals, folder = (unquoted(item) or item).partition("=")
    if named and equals:
        return f"{name}={_absolute(folder, base)}" if folder else item
    return _absolute(item, base)


def _absolute(text: str, base: Path, *, must_exist: bool = False) -> str:
    if not is_plain(text):
        text = text.strip()
    if not is_plain(text):
        return text  # the checks reject it
    text = unquoted(text) or text
    path = (base / at_home(text)).absolute()
    if text != text.strip() and text.strip() and not exists(path):  # spaces that were copied along
        text = text.strip()
        path = (base / at_home(text)).absolute()
    return text if must_exist and not exists(path) else os.path.normpath(path)


def unquoted(path: str) -> str:
    """A path without the quotes that file managers copy around it."""
    inner = path.strip()
    is_quoted = len(inner) > 1 and inner[0] == inner[-1] and inner[0] in "\"'"
    return inner[1:-1] if is_quoted else path


def at_home(text: str) -> Path:
    """A path in which ~ stands for the home of a user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user without a home here: it may be a folder of that name
        return Path(text)


def _text_of(path: Path) -> str:
    try:
        with open_file(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _file_error(path, "it is larger than 1 MB.", "A settings file is a few kilobytes of JSON.")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise _file_error(path, "the file does not exist.", "Give the path of a settings file.") from None
    except UnicodeDecodeError as error:
        what = f"it cannot be read: it is not UTF-8 (byte {error.start:,})."
        raise _file_error(path, what, "Save it as UTF-8 text.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _file_error(path, f"it cannot be read ({reason}).", "Give the path of a settings file.") from None


def _reason(text: str, error: Exception) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, RecursionError):
        return "its brackets are nested too deeply"
    return str(error)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise ValueError(f"duplicate keys: {', '.join(map(printable, twice[:5]))}")
    return values


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number")


def _chain_error(path: Path) -> SettingsError:
    fix = "Start one of its files at a time; each continues with --resume_ckpt findlast."
    return _file_error(path, "it is a chain of several runs, which is not supported yet.", fix)


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number with {len(text):,} digits is too long")
    return int(text)


def _file_error(path: Path, what: str, fix: str) -> SettingsError:
    return SettingsError("The settings file cannot be used:", [Problem(printable(str(path), 1000), what, fix)])
