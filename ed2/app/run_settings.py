"""The settings of a run: the given ones override those of the run that it resumes. Needs no torch."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.checkpoint.identity import is_in_its_run, is_ours, name_of_run, oldest_first, run_at, state_of
from ed2.errors import SettingsError
from ed2.models.files.lora_base import model_behind
from ed2.settings.fields import fields
from ed2.settings.files import read_preset, with_defaults
from ed2.settings.gather import TEXT_ENCODER_LR, gather
from ed2.settings.schema import Settings
from ed2.small_files import read_object

FIND_LAST = "findlast"
SETTINGS_FILE = "settings.json"
MOMENT = len("20260102-030405")
"""Length of the time at the end of a run folder's name."""
STATE_FILES = "ckpts/[!.]*/training_state/state.json"
PLACES = ("logdir", "save_ckpt_dir")
"""Where a run writes; a copy of its checkpoint may come from another computer, so its values are not used."""


@dataclass(frozen=True)
class RecordedSettings:
    """The settings of the run that wrote a checkpoint.

    Attributes:
        values: by their flat names; empty where they are lost.
        notes: why they are not those in the run's folder.
    """

    values: dict[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """What a run starts from.

    Attributes:
        name: the value of `resume_ckpt` for it; empty if no model is named.
        checkpoint: its folder, if it is a checkpoint that can be resumed.
        notes: sentences for the user.
    """

    name: str
    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()


FindOrigin = Callable[[Mapping[str, object], str], Origin]
"""Finds what a run starts from, given the flat settings and the base model of the preset."""


@dataclass(frozen=True)
class EffectiveSettings:
    """The settings that a run would have.

    Attributes:
        settings: including those of the run that it resumes.
        checkpoint: the folder of the checkpoint that it resumes; None starts a new run.
        notes: sentences for the user.
        vae: file or folder whose VAE takes the place of the base model's; None leaves it.
    """

    settings: Settings
    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()
    vae: Path | None = None

    @property
    def base(self) -> Path:
        """Folder or file to read the weights from. Raises ModelError if the base model of a LoRA is gone."""
        return model_behind(Path(self.settings.model.resume_ckpt), self.settings.lora.lora_base)


def look_up_origin(given: Mapping[str, object], preset_base: str) -> Origin:
    """Find the origin by names and headers alone: no checkpoint is verified, and nothing is refused."""
    name = str(given.get("resume_ckpt") or "")
    if name == FIND_LAST:
        last = newest_state(Path(with_defaults(given).logging.logdir))
        name = str(last.parents[1]) if last else preset_base
    return Origin(name, checkpoint_at(Path(name)) if name else None)


def effective_settings(
    flags: Mapping[str, object], config: Path | None, find_origin: FindOrigin = look_up_origin
) -> EffectiveSettings:
    """The settings of the command line, which override a settings file, which overrides the resumed run.

    Raises:
        SettingsError: wrong settings.
    """
    gathered = gather(flags, config)
    origin = find_origin(gathered.values, str(gathered.preset.get("resume_ckpt", "")))
    given = {**gathered.values, "resume_ckpt": origin.name}
    settings, checkpoint, notes = with_defaults(given), origin.checkpoint, [*gathered.notes, *origin.notes]
    if checkpoint is None:
        return EffectiveSettings(settings, None, tuple(notes))
    if settings.model.weights_only:  # it may be left over in the form from another run
        notes.append(f"A new run from the weights of {checkpoint.name}, since --weights_only is set.")
        return EffectiveSettings(settings, None, tuple(notes))
    own = run_settings(checkpoint, state_of(checkpoint))
    merged = merge_run_settings(own.values, given, checkpoint)
    if merged and merged.model.method != own.values.get("method", "full"):
        notes.append(f"A new run from the weights of {checkpoint.name}: it was trained by another method.")
        return EffectiveSettings(merged, None, tuple(notes))
    if merged is None:
        projects = f"{own.values.get('project_name')} -> {given['project_name']}"
        notes.append(f"A new run from the weights of {checkpoint.name}: the project has a different name ({projects}).")
        return EffectiveSettings(settings, None, tuple(notes))
    return EffectiveSettings(merged, checkpoint, (*notes, *own.notes))


def settings_for_check(flags: Mapping[str, object], config: Path | None) -> EffectiveSettings:
    """The effective settings without verifying a checkpoint, with a note on which run's settings fill the gaps.

    Raises:
        SettingsError: wrong settings.
    """
    known = effective_settings(flags, config)
    if known.checkpoint is None or not run_settings(known.checkpoint, state_of(known.checkpoint)).values:
        return known
    in_run = is_in_its_run(known.checkpoint, state_of(known.checkpoint))
    owner = f"the run {known.checkpoint.parent.parent.name}" if in_run else f"the checkpoint {known.checkpoint.name}"
    note = f"Settings not given here are taken from {owner}."
    return EffectiveSettings(known.settings, known.checkpoint, (*known.notes, note))


def merge_run_settings(before: Mapping[str, object], given: Mapping[str, object], checkpoint: Path) -> Settings | None:
    """The given settings over those of the run that wrote a checkpoint; None if the project differs.

    Raises:
        SettingsError: wrong settings.
    """
    if before and given.get("project_name", before.get("project_name")) != before.get("project_name"):
        return None
    given = {name: value for name, value in given.items() if not _is_drawn_seed(name, value, before)}
    return with_defaults({**before, **given, "resume_ckpt": str(checkpoint)})


def run_settings(checkpoint: Path, values: Mapping[str, Any]) -> RecordedSettings:
    """The settings of the run that wrote a checkpoint, from its folder, else from the checkpoint's training state.

    Raises:
        SettingsError: the file in the run's folder is damaged, and the checkpoint is too old to hold settings.
    """
    saved = saved_settings(values)
    if not is_in_its_run(checkpoint, values):
        return RecordedSettings({name: value for name, value in saved.items() if name not in PLACES})
    file = checkpoint.parent.parent / SETTINGS_FILE
    why = "it is missing"
    try:
        if file.is_file():
            found = dict(read_preset(file).values)
            with_defaults(found)
            return RecordedSettings(_with_text_encoder_lr(found, values))
    except SettingsError as error:
        if not saved:
            raise
        faults = (f"{problem.path}: {problem.what}".removeprefix(f"{file}: ") for problem in error.problems)
        why = ", ".join(fault.rstrip(".:") for fault in faults)
    note = f"Cannot use the run's {SETTINGS_FILE}: {why}. Using the settings stored in {checkpoint.name}."
    return RecordedSettings(saved, (note,) if saved else ())


def settings_of_checkpoint(checkpoint: Path) -> Mapping[str, object]:
    """The settings of a checkpoint's run, from its folder, else from the checkpoint; empty if they are lost."""
    with suppress(SettingsError, OSError):
        return read_preset(checkpoint.parent.parent / SETTINGS_FILE).values
    return saved_settings(state_of(checkpoint))


def saved_settings(values: Mapping[str, Any]) -> dict[str, object]:
    """The settings in a training state, without names that this version does not know."""
    saved = values.get("settings")
    if not isinstance(saved, dict):
        return {}
    return _with_text_encoder_lr({name: saved[name] for name in fields() if name in saved}, values)


def _with_text_encoder_lr(settings: dict[str, object], state: Mapping[str, Any]) -> dict[str, object]:
    """The settings of a run, where the text encoder keeps the rate that it was trained at.

    A training state holds that rate; one without it was written when both networks had the same.
    """
    if TEXT_ENCODER_LR in state or settings.get("lr") is None or settings.get(TEXT_ENCODER_LR) is not None:
        return settings
    return {**settings, TEXT_ENCODER_LR: settings["lr"]}


def newest_state(folder: Path) -> Path | None:
    """The description of the training state that was saved last, among all runs of a folder."""
    return _newest(folder.glob(f"*/{STATE_FILES}"))


def checkpoint_at(path: Path) -> Path | None:
    """The checkpoint at `path`: itself, or the newest one of a run."""
    if run_dir := run_at(path):
        last = _newest(run_dir.glob(STATE_FILES))
        return last.parents[1] if last else None
    return path if state_of(path) else None


def _newest(states: Iterable[Path]) -> Path | None:
    found = {state.parents[1]: state for state in states if is_ours(state.parents[1])}
    return found[oldest_first(found)[-1]] if found else None


def _is_drawn_seed(name: str, value: object, before: Mapping[str, object]) -> bool:
    """Whether a value asks for a random seed that the resumed run has already drawn, and keeps."""
    return name == "seed" and value == -1 and "seed" in before


def newest_run_without_checkpoint(logdir: Path) -> Path | None:
    """The newest run of a folder, by the time in its name; None if it has a checkpoint to resume from."""
    runs = [file.parent for file in logdir.glob(f"[!.]*/{SETTINGS_FILE}")]
    last = max(runs, key=lambda run_dir: name_of_run(run_dir)[-MOMENT:], default=None)
    return last if last and not any(last.glob(STATE_FILES)) else None


def no_checkpoint_advice(run_dir: Path) -> str:
    """What to do about a run that ended before its first checkpoint."""
    return f"The run {run_dir.name} ended before its first checkpoint. {restart_advice(run_dir)}"


def restart_advice(run_dir: Path) -> str:
    """How to repeat a run from its start."""
    return f"Start it again with --config {run_dir / SETTINGS_FILE}, which gives the same result."


def data_roots(folder: Path) -> tuple[Path, ...]:
    """The folders and manifests that a run trains on; empty if its settings are lost."""
    with suppress(OSError, ValueError):
        roots = read_object(folder / SETTINGS_FILE).get("data_root")
        if isinstance(roots, list) and all(isinstance(root, str) for root in roots):
            return tuple(map(Path, roots))
    return ()
