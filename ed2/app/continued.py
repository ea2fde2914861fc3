"""Which settings a run goes on with: its own, under those that are given. Without torch, so that a check knows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.checkpoint.order import oldest_first
from ed2.settings.files import read_preset, with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings
from ed2.small_files import read_object

FIND_LAST = "findlast"
SETTINGS_FILE = "settings.json"
MOMENT = len("20260102-030405")
"""Letters at the end of a run folder's name that say when it began."""
STATE_FILES = "ckpts/[!.]*/training_state/state.json"


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
    checkpoint = _checkpoint(Path(str(name))) if name and not settings.model.weights_only else None
    before = settings_of(checkpoint.parents[1]) if checkpoint else {}
    if checkpoint and before:
        continued = with_those_of(before, given, checkpoint)
        if continued:
            notes.append(f"Settings that are not given are those of the run {checkpoint.parents[1].name}.")
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


def settings_of(run_dir: Path) -> dict[str, object]:
    """The settings of a run; none where its file is missing. Raises SettingsError where it is damaged."""
    file = run_dir / SETTINGS_FILE
    return dict(read_preset(file).values) if file.is_file() else {}


def newest_state(folder: Path) -> Path | None:
    """The description of the training state that was saved last, of all runs of a folder."""
    return _newest(folder.glob(f"*/{STATE_FILES}"))


def _checkpoint(path: Path) -> Path | None:
    """The checkpoint in the folder of its run that `path` stands for: itself, or the newest one of a run."""
    if (path / SETTINGS_FILE).is_file() and (path / "ckpts").is_dir():
        last = _newest(path.glob(STATE_FILES))
        return last.parents[1] if last else None
    try:
        values = read_object(path / "training_state" / "state.json")
    except (OSError, ValueError):
        return None
    is_in_its_run = path.parent.name == "ckpts" and path.parents[1].name == values.get("run")
    return path if is_in_its_run else None


def _newest(states: Iterable[Path]) -> Path | None:
    found = {state.parents[1]: state for state in states}
    return found[oldest_first(found)[-1]] if found else None


def _is_drawn_seed(name: str, value: object, before: Mapping[str, object]) -> bool:
    """Whether it is the order to draw a seed: a run goes on with the one that it has drawn."""
    return name == "seed" and value == -1 and "seed" in before


def last_begun(logdir: Path) -> Path | None:
    """The run of a folder that began last, if it has no checkpoint to continue; folders are named by their moment."""
    runs = [file.parent for file in logdir.glob(f"[!.]*/{SETTINGS_FILE}")]
    last = max(runs, key=lambda run_dir: run_dir.name[-MOMENT:], default=None)
    return last if last and not any(last.glob(STATE_FILES)) else None


def no_checkpoint_yet(run_dir: Path) -> str:
    """What to do about a run that ended before its first checkpoint."""
    return f"The run {run_dir.name} ended before its first checkpoint. {begin_again(run_dir)}"


def begin_again(run_dir: Path) -> str:
    """How to do a run once more from its beginning."""
    return f"Start it again with --config {run_dir / SETTINGS_FILE}, which gives the same result."
