"""A run's folder and the files that describe the run: machine, settings, versions, images."""

import importlib.metadata
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

import ed2
from ed2.app.continued import settings_before
from ed2.app.runs.leftovers import remove_half_files, sweep_resume_tests, sweep_runs
from ed2.app.start import SETTINGS_FILE, Start
from ed2.checkpoint.folder import remove_leftovers
from ed2.checkpoint.identity import CKPTS, IMAGES_FILE
from ed2.data.example import Dataset
from ed2.disk import TEMPORARY, plain_reason, write_whole
from ed2.errors import Ed2Error, Problem, SettingsError
from ed2.models.compute import choose_device, choose_dtype
from ed2.settings.files import write_settings
from ed2.settings.schema import Settings

MANIFEST_FILE = "manifest.json"
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "bitsandbytes", "pillow", "numpy")

OF_BEGINNING = ("resume_ckpt", "weights_only")
"""Settings that say with what a run began."""


@dataclass(frozen=True)
class Machine:
    """The device and precision of a run."""

    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, settings: Settings) -> "Machine":
        """Choose by the settings and the hardware.

        Raises:
            SettingsError: the settings ask for a GPU that does not exist.
        """
        try:
            device = choose_device(settings.run.device)
        except ValueError as error:
            raise SettingsError("1 setting is wrong:", [Problem("device", f"{error}.", "Use auto or cpu.")]) from None
        memory = settings.memory
        return cls(device, choose_dtype(device, amp=memory.amp, amp_dtype=memory.amp_dtype))

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        return f"{name} in {str(self.dtype or torch.float32).removeprefix('torch.')}"


def make_run_folder(start: Start) -> Path:
    """Create the folder `<logdir>/<project>_<time>`, or use that of the resumed run."""
    if start.same_folder and start.checkpoint:
        return start.checkpoint.run_dir
    logdir = Path(start.settings.logging.logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    moment = datetime.now()
    while True:
        folder = logdir / f"{start.settings.run.project_name}_{moment:%Y%m%d-%H%M%S}"
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


@dataclass(frozen=True)
class Description:
    """The files that describe a run, kept in memory to write them again if its folder is deleted."""

    files: Mapping[str, bytes]

    def write_missing(self, run_dir: Path) -> bool:
        """Write missing files, and return whether there were any. Raises OSError."""
        missing = [name for name in self.files if not (run_dir / name).exists()]
        if missing:
            run_dir.mkdir(parents=True, exist_ok=True)
        for name in missing:
            write_whole(run_dir / name, self.files[name])
        return bool(missing)


def describe_run(run_dir: Path, start: Start, dataset: Dataset, machine: Machine) -> Description:
    """Write settings.json, manifest.json and pictures.json, and remove the leftovers of killed programs."""
    (run_dir / CKPTS).mkdir(exist_ok=True)
    remove_leftovers(run_dir / CKPTS)
    remove_half_files(run_dir)
    sweep_resume_tests(run_dir.parent)
    sweep_runs(run_dir.parent)
    write_settings(run_dir / SETTINGS_FILE, recorded_settings(start))
    write_whole(run_dir / IMAGES_FILE, image_names(dataset))
    if not start.same_folder:
        _write_manifest(run_dir, start, dataset, machine)
    files = (run_dir / name for name in (SETTINGS_FILE, IMAGES_FILE, MANIFEST_FILE))
    return Description({file.name: file.read_bytes() for file in files if file.is_file()})


def _write_manifest(run_dir: Path, start: Start, dataset: Dataset, machine: Machine) -> None:
    manifest = {
        "run": run_dir.name,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": str(machine),
        "seed": start.settings.run.seed,
        "base_model": str(start.base),
        "continues": str(start.checkpoint.path) if start.checkpoint else None,
        "dataset": {"fingerprint": dataset.fingerprint, "pictures": len(dataset.examples)},
        "notes": list(start.notes),
    }
    write_whole(run_dir / MANIFEST_FILE, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def recorded_settings(start: Start) -> Settings:
    """The settings that a run's folder and checkpoints hold; of a resumed run with the origin of its first part."""
    checkpoint = start.checkpoint
    if not checkpoint or not start.same_folder:
        return start.settings
    before = settings_before(checkpoint.path, checkpoint.values).values
    return start.settings.replaced(**{name: before[name] for name in OF_BEGINNING if name in before})


def image_names(dataset: Dataset) -> bytes:
    """The list of a run's images as JSON, by which added and removed ones are found later."""
    return json.dumps(sorted(example.name for example in dataset.examples), ensure_ascii=False).encode()


def circumstances(machine: Machine) -> dict[str, Any]:
    """What results depend on, bit for bit, besides settings and images."""
    threads = torch.get_num_threads() if machine.device.type == "cpu" else 0
    return {"versions": versions(), "device": str(machine), "threads": threads}


def versions() -> dict[str, str]:
    """The versions of this program, of Python and of the packages that results depend on."""
    found = {"everydream": ed2.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
