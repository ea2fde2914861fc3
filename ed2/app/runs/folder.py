"""A run's folder and the files that describe the run: machine, settings, versions, images."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ed2.app.run_settings import SETTINGS_FILE, run_settings
from ed2.app.run_spec import RunSpec, versions
from ed2.app.runs.removing import remove_half_files, sweep_resume_tests, sweep_runs
from ed2.checkpoint.folder import remove_leftovers
from ed2.checkpoint.identity import CKPTS, IMAGES_FILE
from ed2.data.example import Dataset
from ed2.disk import TEMPORARY, write_whole
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error
from ed2.events import EventBus, Warned
from ed2.settings.files import write_settings
from ed2.settings.schema import Settings

MANIFEST_FILE = "manifest.json"

FOLDER_WAS_DELETED = (
    "The run's folder {} or files in it were deleted. It was written again as far as possible, and the run can be "
    "resumed from its next checkpoint. Earlier logs, samples and checkpoints are lost."
)
ORIGIN_SETTINGS = ("resume_ckpt", "weights_only")
"""Settings that say what a run started from; a resume keeps them."""


def make_run_folder(spec: RunSpec) -> Path:
    """Create the folder `<logdir>/<project>_<time>`, or use that of the resumed run."""
    if spec.same_folder and spec.checkpoint:
        return spec.checkpoint.run_dir
    logdir = Path(spec.settings.logging.logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    moment = datetime.now()
    while True:
        folder = logdir / f"{spec.settings.run.project_name}_{moment:%Y%m%d-%H%M%S}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run started in the same second
            moment += timedelta(seconds=1)
        else:
            return folder


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Check that files can be created in a run's folder, and turn later errors in writing there into plain words.

    Raises:
        Ed2Error: the folder cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY):
            pass
        yield
    except OSError as error:
        reason = plain_reason(error)
        fix = "Free some space there."
        if "disk" not in reason:
            fix = "Check its owner and permissions (docker and sudo create files as root), or resume a copy of it."
        raise Ed2Error(f"The folder {folder} cannot be written", f"{reason}.", fix) from error


@dataclass
class RunFolder:
    """The folder of a run, with the files that describe it; they are written again if somebody deletes them.

    Attributes:
        path: of the folder.
        bus: gets a warning when files were missing.
        renew_lock: locks the folder again after it was deleted.
    """

    path: Path
    bus: EventBus
    renew_lock: Callable[[], None]
    _files: dict[str, bytes] = field(default_factory=dict)

    def describe(self, spec: RunSpec) -> None:
        """Write settings.json, manifest.json and pictures.json, and remove the leftovers of killed programs."""
        (self.path / CKPTS).mkdir(exist_ok=True)
        remove_leftovers(self.path / CKPTS)
        remove_half_files(self.path)
        sweep_resume_tests(self.path.parent)
        sweep_runs(self.path.parent)
        write_settings(self.path / SETTINGS_FILE, recorded_settings(spec))
        write_whole(self.path / IMAGES_FILE, image_names(spec.dataset))
        if not spec.same_folder:
            _write_manifest(self.path, spec)
        files = (self.path / name for name in (SETTINGS_FILE, IMAGES_FILE, MANIFEST_FILE))
        self._files = {file.name: file.read_bytes() for file in files if file.is_file()}

    def restore_missing(self, step: int) -> None:
        """Before each save, restore the describing files and the lock if they are gone. Raises OSError."""
        missing = [name for name in self._files if not (self.path / name).exists()]
        if not missing:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for name in missing:
            write_whole(self.path / name, self._files[name])
        self.renew_lock()
        self.bus.emit(Warned(step, FOLDER_WAS_DELETED.format(self.path)))


def _write_manifest(run_dir: Path, spec: RunSpec) -> None:
    manifest = {
        "run": run_dir.name,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": str(spec.machine),
        "seed": spec.settings.run.seed,
        "base_model": str(spec.base),
        "continues": str(spec.checkpoint.path) if spec.checkpoint else None,
        "dataset": {"fingerprint": spec.dataset.fingerprint, "pictures": len(spec.dataset.examples)},
        "notes": list(spec.notes),
    }
    write_whole(run_dir / MANIFEST_FILE, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def recorded_settings(spec: RunSpec) -> Settings:
    """The settings that a run's folder and checkpoints hold; of a resumed run, with the origin of its first part."""
    checkpoint = spec.checkpoint
    if not checkpoint or not spec.same_folder:
        return spec.settings
    before = run_settings(checkpoint.path, checkpoint.values).values
    return spec.settings.replaced(**{name: before[name] for name in ORIGIN_SETTINGS if name in before})


def image_names(dataset: Dataset) -> bytes:
    """The list of a run's images as JSON, from which added and removed ones are found later."""
    return json.dumps(sorted(example.name for example in dataset.examples), ensure_ascii=False).encode()
