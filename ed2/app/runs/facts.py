"""What is known of a run from its folder: settings, images, checkpoints, memory, versions. Needs no torch."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ed2.app.run_settings import SETTINGS_FILE
from ed2.app.runs.records import RunRecord, replay_run, saved_size
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.identity import INVALID, MANIFEST, TRAINING_STATE, age, checkpoints_of, is_pinned, read_manifest
from ed2.errors import SettingsError
from ed2.settings.fields import fields
from ed2.settings.files import read_preset
from ed2.small_files import read_object
from ed2.text import value_text


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint of a run.

    Attributes:
        can_resume: whether it has a training state.
        is_kept: whether it is protected.
        validation: the last validation loss before it; None without one.
    """

    path: Path
    step: int
    saved_at: str
    size_bytes: int
    can_resume: bool
    is_kept: bool
    validation: float | None


@dataclass(frozen=True)
class RunFacts:
    """A run and all that its folder says of it.

    Attributes:
        settings: by their flat names; empty if they are lost.
        manifest: what was recorded at the start: versions, device, seed, base model, images.
        checkpoints: the newest first.
    """

    record: RunRecord
    shown: RunSnapshot
    settings: Mapping[str, object] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[CheckpointFacts, ...] = ()

    @classmethod
    def of(cls, record: RunRecord) -> "RunFacts":
        """Read a run's folder; what is damaged is left out. Raises OSError if it has no events."""
        manifest: dict[str, Any] = {}
        settings: Mapping[str, object] = {}
        with suppress(OSError, ValueError):
            manifest = read_object(record.folder / MANIFEST)
        with suppress(SettingsError, OSError):
            settings = read_preset(record.folder / SETTINGS_FILE).values
        known = {name: settings[name] for name in fields() if name in settings}
        found = [_facts_of(path) for path in reversed(checkpoints_of(record.folder))]
        return cls(record, replay_run(record.folder), known, manifest, tuple(found))

    @property
    def changed(self) -> dict[str, object]:
        """The settings that are not at their default."""
        return {name: value for name, value in self.settings.items() if not is_default(name, value)}

    @property
    def versions(self) -> dict[str, str]:
        """The versions of this program and of the packages that it ran with."""
        found = self.manifest.get("versions")
        return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}

    @property
    def num_images(self) -> int:
        """The number of images that it trains on."""
        return self.shown.images


def is_default(name: str, value: object) -> bool:
    """Whether a setting has its default, written as a list or a tuple."""
    default = fields()[name].default
    return value == default or (isinstance(value, list) and isinstance(default, tuple) and tuple(value) == default)


def shown_value(name: str, value: object) -> str:
    """A setting's value for people, without the folders of a path."""
    if isinstance(value, list | tuple):
        return ", ".join(shown_value(name, item) for item in value) or "–"
    if value in (None, ""):
        return "–"
    return _shown_path(str(value)) if fields()[name].is_path else value_text(value)


def _shown_path(path: str) -> str:
    """The last name of a path, which may have a name of its own before it: name=folder."""
    head, equals, tail = path.partition("=")
    return f"{head}={last_name(tail)}" if equals and "/" not in head else last_name(path)


def last_name(path: str) -> str:
    """The last name of a path of any system; a public name such as owner/model is kept."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    is_public = len(parts) == 2 and not path.startswith(("/", "~", ".")) and ":" not in path and "\\" not in path
    return path if is_public else (parts or ["–"])[-1]


def image_of(roots: Sequence[Path], key: str) -> Path | None:
    """The file of a training image, by its key; None for a key of other folders."""
    number, _, name = key.partition("/")
    if not (number.isdecimal() and int(number) < len(roots) and name):
        return None
    root = roots[int(number)]
    path = (root if root.is_dir() else root.parent) / name
    return path if path.exists() else path.with_name(re.sub(r"#\d+$", "", path.name))  # an entry of a manifest


def differing_settings(runs: Sequence[RunFacts]) -> dict[str, list[object]]:
    """The settings that are not the same in all of these runs, with the value of each."""
    found = {}
    for name in fields():
        values = [run.settings.get(name) for run in runs]
        if any(value != values[0] for value in values):
            found[name] = values
    return found


def _facts_of(checkpoint: Path) -> CheckpointFacts:
    step, saved_at = age(checkpoint)
    validation = None
    with suppress(*INVALID):
        validation = float(read_manifest(checkpoint)["validation"]["loss"])
    return CheckpointFacts(
        path=checkpoint,
        step=step,
        saved_at=saved_at[:16].replace("T", " "),
        size_bytes=saved_size(checkpoint),
        can_resume=(checkpoint / TRAINING_STATE).is_dir(),
        is_kept=is_pinned(checkpoint),
        validation=validation,
    )
