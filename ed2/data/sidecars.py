"""Sidecar files: the caption files beside an image, and the files in a folder that apply to all images in it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from ed2.data.example import FindingKind
from ed2.data.image_config import ImageConfig, ParsedConfig, config_from_mapping, config_from_text, merge_configs
from ed2.data.text_files import TextFile, caption_from_name, read_text
from ed2.small_files import NO_FILE

CAPTION_EXTENSIONS = ("txt", "caption", "yml", "yaml")
"""Extensions of the caption files beside an image, from lowest to highest priority."""
GLOBAL_NAMES = ("global.yml", "global.yaml")
"""Files that apply to a folder and all folders in it; from lowest to highest priority."""
VALUE_NAMES: Mapping[str, str] = {
    f"{name}.txt": name for name in ("multiply", "cond_dropout", "flip_p", "loss_scale", "batch_id", "shuffle_tags")
}
"""Each holds one value for the images of its folder; `shuffle_tags.txt` only has to exist."""
LOCAL_NAMES = (*VALUE_NAMES, "local.yml", "local.yaml")
"""Files that apply to the images of their folder but not to the folders in it; from lowest to highest priority."""
FOLDER_NAMES = frozenset((*GLOBAL_NAMES, *LOCAL_NAMES))
MAX_ALIASES = 100
"""References within a YAML file; more are considered an attack."""

_ALIAS = re.compile(r"(?:^|[\s,\[{:-])\*[\w-]")
# All scalars stay text: a tag `no`, `1e3` or `2020-01-01` means its letters. This loader never runs code.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class SidecarNote(NamedTuple):
    """Something to report about an image or a sidecar."""

    kind: FindingKind
    what: str
    """Without the full stop."""


class SidecarConfig(NamedTuple):
    """The config in a sidecar, and what to report about the file."""

    config: ImageConfig
    notes: tuple[SidecarNote, ...] = ()


class ImageDescription(NamedTuple):
    """Everything that sidecars say about one image."""

    config: ImageConfig
    prompt: str
    notes: tuple[SidecarNote, ...]


def read_folder_file(path: Path) -> SidecarConfig:
    """Read a file that applies to a folder."""
    name = path.name.lower()
    if name not in VALUE_NAMES:
        return _read_yaml(path)
    value = VALUE_NAMES[name]
    if value == "shuffle_tags":
        return SidecarConfig(ImageConfig(shuffle_tags=True)) if path.is_file() else _rejected(NO_FILE)
    text = read_text(path)
    if not text.text:
        return _rejected(text.detail or "it is empty")
    return _with_notes(config_from_mapping({value: text.text}), text)


def read_caption_file(path: Path | str) -> SidecarConfig:
    """Read a file that lies beside an image and has its name."""
    if str(path).lower().endswith((".yml", ".yaml")):
        return _read_yaml(path)
    text = read_text(path)
    if text.text:
        return _with_notes(ParsedConfig(config_from_text(text.text)), text)
    if text.detail:
        return _rejected(text.detail)
    return SidecarConfig(ImageConfig(), (SidecarNote("file name", f"{Path(path).name} is empty"),))


def describe_image(image: Path | str, inherited: ImageConfig, sidecars: Sequence[Path | str]) -> ImageDescription:
    """Return what applies to an image.

    Args:
        image: its name up to the first underscore is the main prompt if no file gives one.
        inherited: what its folders say.
        sidecars: the caption files beside it, the weakest first.
    """
    configs = [inherited]
    notes: list[SidecarNote] = []
    own_prompts: dict[str, None] = {}
    for path in sidecars:
        config, found = read_caption_file(path)
        configs.append(config)
        notes += [_name_file(path, note) for note in found]
        own_prompts |= dict.fromkeys(config.prompts)
    config = merge_configs(configs) if sidecars else inherited  # which all images of a folder share
    if len(own_prompts) > 1:
        what = f'it has {len(own_prompts)} main prompts; only "{config.prompts[0][:60]}" is used'
        notes.append(SidecarNote("several", what))
    if config.prompts:  # an empty caption file is not worth reporting if another gives the caption
        return ImageDescription(config, config.prompts[0], _without_empty_files(notes) if notes else ())
    prompt = caption_from_name(image)
    reason = _why_no_prompt(notes, sidecars)
    note = SidecarNote("file name", reason)
    if not prompt and not config.tags:
        note = SidecarNote("no caption", f"{reason}, and the file name gives no caption either")
    return ImageDescription(config, prompt, (*_without_empty_files(notes), note))


def _without_empty_files(notes: Sequence[SidecarNote]) -> tuple[SidecarNote, ...]:
    return tuple(note for note in notes if note.kind != "file name")


def _why_no_prompt(notes: Sequence[SidecarNote], sidecars: Sequence[Path | str]) -> str:
    for note in notes:
        if note.kind == "file name":
            return note.what
    if sidecars:
        return "its caption file has no main prompt"
    return "there is no caption file"


def _name_file(path: Path | str, note: SidecarNote) -> SidecarNote:
    """Add the sidecar's name to a note about an image; other kinds already name their file."""
    if note.kind != "sidecar":
        return note
    return note._replace(what=f"in {Path(path).name}: {note.what}")


def _read_yaml(path: Path | str) -> SidecarConfig:
    text = read_text(path, keep_lines=True)
    if not text.text:
        if text.detail:
            return _rejected(text.detail)
        return SidecarConfig(ImageConfig())
    if text.note == "cut":
        return _rejected("it is larger than 64 KB")
    if len(_ALIAS.findall(text.text)) > MAX_ALIASES:
        return _rejected(f"it has more than {MAX_ALIASES} YAML aliases")
    try:
        values = yaml.load(text.text, Loader=_LOADER)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return _rejected(f"it is not valid YAML ({_yaml_reason(error)})")
    if values is None or values == "":
        return SidecarConfig(ImageConfig())
    if not isinstance(values, dict):
        return _rejected("it contains no keys with values, such as `main_prompt: a cat`")
    return _with_notes(config_from_mapping(values), text)


def _with_notes(parsed: ParsedConfig, text: TextFile) -> SidecarConfig:
    notes = [SidecarNote("sidecar", problem.rstrip(".")) for problem in parsed.problems]
    if text.note:
        notes.append(SidecarNote(text.note, text.detail))
    return SidecarConfig(parsed.config, tuple(notes))


def _rejected(what: str) -> SidecarConfig:
    return SidecarConfig(ImageConfig(), (SidecarNote("sidecar", what),))


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
