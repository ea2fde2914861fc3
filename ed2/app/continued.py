"""Which settings a run goes on with: its own, under those that are given. Without torch, so that a check knows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.checkpoint.identity import is_in_its_run, is_ours, name_of_run, oldest_first, run_at, state_of
from ed2.errors import SettingsError
from ed2.settings.fields import fields
from ed2.settings.files import read_preset, with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings

FIND_LAST = "findlast"
SETTINGS_FILE = "settings.json"
MOMENT = len("20260102-030405")
"""Letters at the end of a run folder's name that say when it began."""
STATE_FILES = "ckpts/[!.]*/training_state/state.json"


PLACES = ("logdir", "save_ckpt_dir")
"""Where a run writes: a copy of its checkpoint, which may come from another computer, does not say that."""


@dataclass(frozen=True)
class Before:
    """The settings that the run of a checkpoint had.

    Attributes:
        values: by their flat names; empty where nobody knows them any more.
        notes: why they are not those in the run's folder.
    """

    values: dict[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InEffect:
    """Settings as a run would have them.

    Attributes:
        settings: with those of the run that is continued.
        notes: what to tell of it.
    """

    settings: Settings
    notes: tuple[str, ...] = ()


def settings_in_effect(flags: Mapping[str, object], config: Path | None) -> InEffect:
    """The settings of the command line and a settings file, and under them those of the run that they continue.

    Raises:
        SettingsError: wrong settings.
    """
    gathered = gather(flags, config)
    given, notes = dict(gathered.values), list(gathered.notes)
    name = given.get("resume_ckpt")
    if name == FIND_LAST:
        last = newest_state(Path(with_defaults(given).logging.logdir))
        name = given["resume_ckpt"] = str(last.parents[1]) if last else str(gathered.preset.get("resume_ckpt", ""))
    settings = with_defaults(given)
    checkpoint = checkpoint_at(Path(str(name))) if name and not settings.model.weights_only else None
    before = settings_before(checkpoint, state_of(checkpoint)) if checkpoint else Before({})
    if checkpoint and before.values:
        continued = with_those_of(before.values, given, checkpoint)
        if continued:
            notes += [*before.notes, f"Settings that are not given are those of {_owner(checkpoint)}."]
        settings = continued or settings
    return InEffect(settings, tuple(notes))


def with_those_of(before: Mapping[str, object], given: Mapping[str, object], checkpoint: Path) -> Settings | None:
    """The given settings over those of the run that a checkpoint is of; None where another project is meant.

    Raises:
        SettingsError: wrong settings.
    """
    if before and given.get("project_name", before.get("project_name")) != before.get("project_name"):
        return None
    given = {name: value for name, value in given.items() if not _is_drawn_seed(name, value, before)}
    return with_defaults({**before, **given, "resume_ckpt": str(checkpoint)})


def settings_before(checkpoint: Path, values: Mapping[str, Any]) -> Before:
    """The settings that the run of a checkpoint had: by its folder, else as the checkpoint holds them.

    Args:
        checkpoint: its folder.
        values: what its training state says.

    Raises:
        SettingsError: the file in the run's folder is damaged, and the checkpoint is too old to hold settings.
    """
    saved = saved_settings(values)
    if not is_in_its_run(checkpoint, values):
        return Before({name: value for name, value in saved.items() if name not in PLACES})
    file = checkpoint.parent.parent / SETTINGS_FILE
    why = "it is missing"
    try:
        if file.is_file():
            found = dict(read_preset(file).values)
            with_defaults(found)
            return Before(found)
    except SettingsError as error:
        if not saved:
            raise
        faults = (f"{problem.path}: {problem.what}".removeprefix(f"{file}: ") for problem in error.problems)
        why = ", ".join(fault.rstrip(".:") for fault in faults)
    note = f"The run's {SETTINGS_FILE} cannot be used: {why}. Its settings are those that {checkpoint.name} holds."
    return Before(saved, (note,) if saved else ())


def saved_settings(values: Mapping[str, Any]) -> dict[str, object]:
    """The settings in a training state, without those that another version of this program has had."""
    saved = values.get("settings")
    return {name: saved[name] for name in fields() if name in saved} if isinstance(saved, dict) else {}


def _owner(checkpoint: Path) -> str:
    in_run = is_in_its_run(checkpoint, state_of(checkpoint))
    return f"the run {checkpoint.parent.parent.name}" if in_run else f"the checkpoint {checkpoint.name}"


def newest_state(folder: Path) -> Path | None:
    """The description of the training state that was saved last, of all runs of a folder."""
    return _newest(folder.glob(f"*/{STATE_FILES}"))


def checkpoint_at(path: Path) -> Path | None:
    """The checkpoint that `path` stands for: itself, or the newest one of a run."""
    if run_dir := run_at(path):
        last = _newest(run_dir.glob(STATE_FILES))
        return last.parents[1] if last else None
    return path if state_of(path) else None


def _newest(states: Iterable[Path]) -> Path | None:
    found = {state.parents[1]: state for state in states if is_ours(state.parents[1])}
    return found[oldest_first(found)[-1]] if found else None


def _is_drawn_seed(name: str, value: object, before: Mapping[str, object]) -> bool:
    """Whether it is the order to draw a seed: a run goes on with the one that it has drawn."""
    return name == "seed" and value == -1 and "seed" in before


def last_begun(logdir: Path) -> Path | None:
    """The run of a folder that began last, if it has no checkpoint to continue; folders are named by their moment."""
    runs = [file.parent for file in logdir.glob(f"[!.]*/{SETTINGS_FILE}")]
    last = max(runs, key=lambda run_dir: name_of_run(run_dir)[-MOMENT:], default=None)
    return last if last and not any(last.glob(STATE_FILES)) else None


def no_checkpoint_yet(run_dir: Path) -> str:
    """What to do about a run that ended before its first checkpoint."""
    return f"The run {run_dir.name} ended before its first checkpoint. {begin_again(run_dir)}"


def begin_again(run_dir: Path) -> str:
    """How to do a run once more from its beginning."""
    return f"Start it again with --config {run_dir / SETTINGS_FILE}, which gives the same result."
