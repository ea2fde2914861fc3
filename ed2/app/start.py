"""Where a run begins: a base model, or a checkpoint that goes on. Which settings then hold, and what is said."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ed2.app.checks.base_model import not_on_disk
from ed2.app.completing import end_is_missing, with_what_is_left
from ed2.app.continued import FIND_LAST as FIND_LAST
from ed2.app.continued import SETTINGS_FILE as SETTINGS_FILE
from ed2.app.continued import (
    begin_again,
    checkpoint_at,
    last_begun,
    no_checkpoint_yet,
    saved_settings,
    settings_before,
    with_those_of,
)
from ed2.checkpoint.finding import newest_below, newest_of_run, require_sound
from ed2.checkpoint.folder import Progress, no_progress
from ed2.checkpoint.identity import images_of, run_at
from ed2.checkpoint.resume import Checkpoint
from ed2.data.example import Dataset
from ed2.disk import why_not_writable
from ed2.errors import CheckpointError, Problem, SettingsError, printable
from ed2.models.families.facts import trainable_titles
from ed2.models.files.base_model import PUBLIC_NAME, in_hub_cache
from ed2.settings.checks import without_effect
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings
from ed2.text import counted

FREE = {
    "resume_ckpt", "weights_only", "max_epochs", "data_root", "logdir", "log_step", "run_name", "decode_threads",
    "save_ckpt_dir",
    "sample_prompts", "sample_steps", "ckpt_every_n_minutes", "save_every_n_epochs", "save_ckpts_from_n_epochs",
    "keep_last",
    "no_save_ckpt", "ckpt_format", "save_full_precision", "no_prepend_last", "write_schedule",
    "every_n_epochs", "manual_data_root", "extra_manual_datasets", "stabilize_training_loss",
    "stabilize_split_proportion", "val_batch_size", "ema_sample_nonema_model", "ema_sample_ema_model",
}  # fmt: skip
"""Settings that may change and it stays the same run; whether the images changed is seen on the images."""


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        settings: in effect, every path absolute, a seed that is drawn.
        base: folder that the weights are read from.
        checkpoint: what is continued; None begins at zero.
        same_folder: whether the run goes on in the folder that it was in.
        lacks_end: whether it was stopped or killed after its last step, before it was done with what follows.
        notes: what the user should know, in sentences.
    """

    settings: Settings
    base: Path
    checkpoint: Checkpoint | None = None
    same_folder: bool = False
    lacks_end: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.checkpoint is not None and self.checkpoint.state.epoch >= self.settings.run.max_epochs


def choose_start(flags: Mapping[str, object], config: Path | None, progress: Progress = no_progress) -> Start:
    """Read the settings and find what the run begins with.

    Args:
        flags: settings of the command line; they win.
        config: a preset, or the settings of an earlier run.
        progress: told how far the comparison of a checkpoint's bytes is.

    Raises:
        SettingsError: wrong settings, or no model named.
        CheckpointError: the checkpoint is damaged.
    """
    gathered = gather(flags, config)
    preset, given, notes = gathered.preset, dict(gathered.values), list(gathered.notes)
    last: Path | None = None
    if given.get("resume_ckpt") == FIND_LAST:
        last, told = _find_last(with_defaults(given), preset_base := str(preset.get("resume_ckpt", "")), progress)
        given["resume_ckpt"] = str(last or preset_base)
        notes += told
    settings = with_defaults(given)
    if not settings.model.resume_ckpt:
        raise _no_model()
    path, told = (last, []) if last else _sound_base(settings, progress)
    notes += [*told, *_weights_alone(path, settings)]
    checkpoint = None if settings.model.weights_only else Checkpoint.open(path)
    if checkpoint:
        before = settings_before(path, checkpoint.values)
        continued = with_those_of(before.values, given, path)
        if continued is None:
            then, now = before.values.get("project_name"), given["project_name"]
            notes.append(f"A new run from the weights of {path.name}: the project has another name ({then} -> {now}).")
            checkpoint = None
        notes += before.notes if checkpoint else ()
        settings = continued or settings
    settings = settings.replaced(
        resume_ckpt=str(path), seed=settings.run.seed if settings.run.seed >= 0 else _drawn_seed()
    )
    return Start(settings, path, checkpoint, notes=(*notes, *without_effect(settings)))


def weigh(start: Start, dataset: Dataset, circumstances: Mapping[str, Any]) -> Start:
    """Decide, knowing the images, whether the run goes on in its folder, in a new one, or begins anew.

    Args:
        start: as chosen.
        dataset: the images as they are now.
        circumstances: what else the bytes of a result depend on, as the checkpoint says it of itself.
    """
    checkpoint = start.checkpoint
    if checkpoint is None:
        return start
    before = images_of(checkpoint.path, checkpoint.values)
    now = {example.name for example in dataset.examples}
    if before and not before & now:
        note = f"A new run from the weights of {start.base.name}: none of its images is among these."
        return replace(start, checkpoint=None, notes=(*start.notes, note))
    changes = _changed_settings(checkpoint, start.settings) + _changed_images(before, now)
    if not changes and dataset.fingerprint != checkpoint.values.get("fingerprint"):
        changes.append("images or captions were changed")
    notes = [*start.notes, f"Continues {checkpoint.path.name} at step {checkpoint.state.step}."]
    if changes:
        notes.append(f"It goes on in a new folder, not byte-exact: {'; '.join(changes)}.")
    elif not checkpoint.is_in_its_run:
        notes.append("It goes on in a new folder: this copy of a checkpoint does not lie in the folder of its run.")
        notes += _not_byte_exact(checkpoint, start.settings, circumstances)
    elif not checkpoint.is_newest:
        notes.append("It goes on in a new folder: its run has later checkpoints, which stay.")
    elif reason := why_not_writable(checkpoint.run_dir):
        notes.append(f"It goes on in a new folder: {checkpoint.run_dir} cannot be written ({reason}).")
        notes += _not_byte_exact(checkpoint, start.settings, circumstances)
    else:
        notes += _not_byte_exact(checkpoint, start.settings, circumstances)
        return _in_its_folder(replace(start, notes=tuple(notes)), checkpoint)
    return replace(start, notes=tuple(notes))


def _in_its_folder(start: Start, checkpoint: Checkpoint) -> Start:
    """A run that goes on in its folder, with what is still to be done there of its checkpoint's step."""
    lacks_end = end_is_missing(checkpoint, start.settings.run.max_epochs)
    note = ("All its epochs are done: what follows them is made up for.",) if lacks_end else ()
    checkpoint = with_what_is_left(checkpoint)
    return replace(start, checkpoint=checkpoint, same_folder=True, lacks_end=lacks_end, notes=(*start.notes, *note))


def _find_last(settings: Settings, preset_base: str, progress: Progress) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint; None where `preset_base` stands in; and what is to be said of that."""
    logdir = Path(settings.logging.logdir)
    found, begun = newest_below(logdir, progress), last_begun(logdir)
    unsaved = [no_checkpoint_yet(begun)] if begun else []
    if last := found.checkpoint:
        note = f"The newest checkpoint is {last.path.name} in {last.run_dir.name}."
        return last.path, [*found.notes, note, *unsaved]
    if preset_base and preset_base != FIND_LAST:
        return None, [*found.notes, f"No checkpoint was found in {logdir}: a new run from {preset_base}."]
    fix = unsaved[0] if unsaved else "Give the path of a model, or the folder of your runs as --logdir."
    problems = [Problem("resume_ckpt", f"no checkpoint in {logdir}.", fix), *(Problem(None, n) for n in found.notes)]
    raise SettingsError("There is nothing to continue:", problems)


def _base_path(name: str) -> Path:
    """The folder or file that `name` stands for.

    Raises:
        SettingsError: it is a public name, and the model is not on this disk.
    """
    if Path(name).exists() or not PUBLIC_NAME.fullmatch(name):
        return Path(name)
    folder = in_hub_cache(name)
    if folder:
        return folder
    raise SettingsError("The base model is missing:", [not_on_disk(name)])


def _sound_base(settings: Settings, progress: Progress) -> tuple[Path, list[str]]:
    """The model to begin with, or the newest sound checkpoint where a run is named; and what is to be said of it."""
    path = _base_path(settings.model.resume_ckpt)
    if run_dir := run_at(path):
        path, found = run_dir, newest_of_run(run_dir, progress)
        if not found.checkpoint:
            if not found.notes:
                what, why = f"The run {path.name} cannot be continued", "it ended before its first checkpoint."
                raise CheckpointError(what, why, begin_again(path))
            why = " ".join(found.notes)
            raise CheckpointError(f"The run {path.name} has no checkpoint to continue", why, "Choose another run.")
        return found.checkpoint.path, found.notes
    require_sound(path, with_state=not settings.model.weights_only, progress=progress)
    return path, []


def _weights_alone(path: Path, settings: Settings) -> list[str]:
    """That a checkpoint is not continued, where it was asked for so: by a setting that may be left from another run."""
    is_asked = settings.model.weights_only and checkpoint_at(path) is not None
    return [f"A new run from the weights of {path.name}, since --weights_only is set."] if is_asked else []


def _settings_then(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The settings when the checkpoint was saved; the run's where it is from before checkpoints held them."""
    return saved_settings(checkpoint.values) or settings_before(checkpoint.path, checkpoint.values).values


def _changed_settings(checkpoint: Checkpoint, settings: Settings) -> list[str]:
    before, now = _settings_then(checkpoint), settings.flat()
    return [f"{name} {_told(before[name])} -> {_told(now[name])}" for name in now if name in before and name not in FREE
            and before[name] != now[name]]  # fmt: skip


def _told(value: object) -> str:
    return "not set" if value is None else printable(str(value))


def _changed_images(before: set[str], now: set[str]) -> list[str]:
    added, gone = len(now - before), len(before - now)
    words = [f"{counted(added, 'image')} added"] if before and added else []
    return words + ([f"{counted(gone, 'image')} gone"] if gone else [])


def _not_byte_exact(checkpoint: Checkpoint, settings: Settings, circumstances: Mapping[str, Any]) -> list[str]:
    """Why the same run will not end with the same bytes, in sentences."""
    other = _other_circumstances(checkpoint.values, circumstances)
    notes = [f"It goes on, but not byte-exact: {', '.join(other)}."] if other else []
    if _schedule_moves(checkpoint, settings):
        notes.append("The learning rate follows the longer run from here on, so the result is not byte-exact.")
    return notes


def _other_circumstances(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written: versions, device, threads."""
    then, today = before.get("versions", {}), now["versions"]
    changes = [f"{name} {then[name]} -> {today.get(name, 'missing')}" for name in then if then[name] != today.get(name)]
    named = {"device": "the device", "threads": "computing threads"}
    return changes + [f"{text} {before[name]} -> {now[name]}" for name, text in named.items()
                      if name in before and before[name] != now[name]]  # fmt: skip


def _schedule_moves(checkpoint: Checkpoint, settings: Settings) -> bool:
    is_longer = _settings_then(checkpoint).get("max_epochs") != settings.run.max_epochs
    curves = {settings.optimizer.lr_scheduler, settings.text_encoder.text_encoder_lr_scheduler}
    return is_longer and (curves - {"constant", None} != set() or settings.ema.ema_strength_target is not None)


def _drawn_seed() -> int:
    return secrets.randbelow(2**31)


def _no_model() -> SettingsError:
    fix = (
        f"Set --resume_ckpt to a diffusers folder or a .safetensors file of an {trainable_titles()} model, or to a "
        "checkpoint of a run."
    )
    return SettingsError("1 setting is missing:", [Problem("resume_ckpt", "no model to start from.", fix)])
