"""The small files that say how images are trained: beside an image, and in a folder for all that is in it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from ed2.data.captions import TextFile, caption_from_name, read_text
from ed2.data.example import Kind
from ed2.data.layers import Layer, Told, layer_of_mapping, layer_of_text, layer_of_value, merged
from ed2.small_files import NO_FILE

IMAGE_EXTENSIONS = ("txt", "caption", "yml", "yaml")
"""Of the files beside an image, the weakest first."""
GLOBAL_NAMES = ("global.yml", "global.yaml")
"""Hold for a folder and all folders in it; the weakest first."""
VALUE_NAMES: Mapping[str, str] = {
    f"{name}.txt": name for name in ("multiply", "cond_dropout", "flip_p", "loss_scale", "batch_id", "shuffle_tags")
}
"""Each holds one value for the images of its folder; `shuffle_tags.txt` by being there."""
LOCAL_NAMES = (*VALUE_NAMES, "local.yml", "local.yaml")
"""Hold for the images of their folder and not for the folders in it; the weakest first."""
FOLDER_NAMES = frozenset((*GLOBAL_NAMES, *LOCAL_NAMES))
MAX_ALIASES = 100
"""References within a YAML file; more are taken for an attack."""

_ALIAS = re.compile(r"(?:^|[\s,\[{:-])\*[\w-]")
# All scalars stay text: a tag `no`, `1e3` or `2020-01-01` means its letters. Nothing of this loader runs code.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Note(NamedTuple):
    """Something to tell about an image or a file."""

    kind: Kind
    what: str
    """Without the full stop."""


class Read(NamedTuple):
    """A layer, and what to tell about the file that it comes from."""

    layer: Layer
    notes: tuple[Note, ...] = ()


class Described(NamedTuple):
    """All that the files say of one image."""

    layer: Layer
    prompt: str
    notes: tuple[Note, ...]


def read_folder_file(path: Path) -> Read:
    """Read a file that holds for a folder."""
    name = path.name.lower()
    if name not in VALUE_NAMES:
        return _read_yaml(path)
    value = VALUE_NAMES[name]
    if value == "shuffle_tags":
        return Read(Layer(shuffle_tags=True)) if path.is_file() else _refused(NO_FILE)
    text = read_text(path)
    if not text.text:
        return Read(Layer(), (Note("side-car", text.detail or "it is empty"),))
    return _read(layer_of_value(value, text.text), text)


def read_image_file(path: Path) -> Read:
    """Read a file that stands beside an image and bears its name."""
    if path.suffix.lower() in (".yml", ".yaml"):
        return _read_yaml(path)
    text = read_text(path)
    return Read(layer_of_text(text.text) if text.text else Layer(), _text_notes(path, text))


def described(image: Path, below: Layer, sidecars: Sequence[Path]) -> Described:
    """Return what holds for an image.

    Args:
        image: its name up to the first underscore is the main prompt where no file gives one.
        below: what its folders say.
        sidecars: the files beside it, the weakest first.
    """
    reads = [read_image_file(path) for path in sidecars]
    layer = merged([below, *(read.layer for read in reads)]) if reads else below
    notes = [_of_file(path, note) for path, read in zip(sidecars, reads, strict=True) for note in read.notes]
    own = dict.fromkeys(prompt for read in reads for prompt in read.layer.prompts)
    if len(own) > 1:
        what = f'it has {len(own)} main prompts, of which only "{layer.prompts[0][:60]}" is used'
        notes.append(Note("several", what))
    if layer.prompts:
        # Of an empty text file nothing needs to be told where another file gives the caption.
        return Described(layer, layer.prompts[0], tuple(note for note in notes if note.kind != "file name"))
    prompt = caption_from_name(image)
    usual = "its side-car gives no caption" if sidecars else "there is no caption file"
    reason = next((note.what for note in notes if note.kind == "file name"), usual)
    notes = [note for note in notes if note.kind != "file name"]
    if prompt or layer.tags:
        notes.append(Note("file name", reason))
    else:
        notes.append(Note("no caption", f"{reason}, and the file name gives none"))
    return Described(layer, prompt, tuple(notes))


def _read_yaml(path: Path) -> Read:
    text = read_text(path, keep_lines=True)
    if not text.text:
        return Read(Layer(), (Note("side-car", text.detail or "it is empty"),) if text.detail else ())
    if text.note == "cut":
        return _refused("it is larger than 64 KB")
    if len(_ALIAS.findall(text.text)) > MAX_ALIASES:
        return _refused(f"it refers to itself more than {MAX_ALIASES} times")
    try:
        values = yaml.load(text.text, Loader=_LOADER)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return _refused(f"it is not proper YAML ({_where(error)}), so nothing of it is used; correct it there")
    if values is None or values == "":
        return Read(Layer())
    if not isinstance(values, dict):
        return _refused("it holds no names with values, such as `main_prompt: a cat`")
    return _read(layer_of_mapping(_with_caption(values)), text)


def _with_caption(values: dict[object, object]) -> dict[object, object]:
    """Read a caption that is mere text as the main prompt."""
    if isinstance(values.get("caption"), str):
        return {("main_prompt" if name == "caption" else name): value for name, value in values.items()}
    return values


def _read(told: Told, text: TextFile) -> Read:
    notes = [Note("side-car", fault.rstrip(".")) for fault in told.faults]
    if text.note:
        notes.append(Note(text.note, text.detail))
    return Read(told.layer, tuple(notes))


def _of_file(path: Path, note: Note) -> Note:
    """Name the side-car in what is said of an image; other notes name their file themselves."""
    return note._replace(what=f"in {path.name}: {note.what}") if note.kind == "side-car" else note


def _refused(what: str) -> Read:
    return Read(Layer(), (Note("side-car", what),))


def _text_notes(path: Path, text: TextFile) -> tuple[Note, ...]:
    if not text.text:
        return (Note("side-car", text.detail) if text.detail else Note("file name", f"{path.name} is empty"),)
    return (Note(text.note, text.detail),) if text.note else ()


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
