"""What a preset or settings that are typed change of a form, and what they leave as it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ed2.app.user_files import preset_values
from ed2.errors import SettingsError
from ed2.models.files.hub import PUBLIC_NAME
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.ui.form import defaults

OWN = ("data_root", "resume_ckpt", "project_name", "logdir", "save_ckpt_dir", "sample_prompts")
"""What a person chooses for a run, not for a card: it stays unless it is named."""
BASE = "resume_ckpt"


def changes_of(named: Mapping[str, object]) -> dict[str, object]:
    """What the form gets from settings that name some: those, and the defaults of all others but the person's own."""
    return {**{name: value for name, value in defaults().items() if name not in OWN}, **named}


def changes_by_preset(preset: Path, base: object, presets: Iterable[Path]) -> dict[str, object]:
    """What the form gets from a preset.

    The public name of a base model is a suggestion: it does not replace a model that the person has chosen.

    Args:
        preset: its file.
        base: the base model of the form.
        presets: all there are: a base that one of them names was not chosen by hand.

    Raises:
        SettingsError: the preset cannot be read.
    """
    named = preset_values(preset)
    chosen = absolute_paths({BASE: base}, PROGRAM_DIR)[BASE]
    if chosen and _is_public(named.get(BASE)) and chosen not in map(_base_of, presets):
        del named[BASE]
    return changes_of(named)


def _is_public(base: object) -> bool:
    return isinstance(base, str) and PUBLIC_NAME.fullmatch(base) is not None


def _base_of(preset: Path) -> object:
    try:
        return preset_values(preset).get(BASE)
    except SettingsError:
        return None
