"""One short run with three checkpoints, copied by each test that damages something."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import Trained, train

Values = dict[str, object]


@pytest.fixture(scope="session")
def quick_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is such a place: hundreds of saves wait for no drive."""
    in_memory = Path("/dev/shm")
    base = tmp_path_factory.mktemp("saves") if not in_memory.is_dir() else Path(tempfile.mkdtemp(dir=in_memory))
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def quick_path(quick_disk: Path) -> Iterator[Path]:
    """A folder of the test's own in there."""
    folder = Path(tempfile.mkdtemp(dir=quick_disk))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def short_values(quick_disk: Path, sd1: Path, images: Path) -> Values:
    """Settings of a run of six steps in two epochs that trains the UNet alone."""
    folder = Path(tempfile.mkdtemp(dir=quick_disk))
    return {
        "project_name": "tiny",
        "data_root": [str(images)],
        "resume_ckpt": str(sd1),
        "resolution": 64,
        "batch_size": 4,
        "max_epochs": 2,
        "sample_prompts": str(folder / "none"),
        "logdir": str(folder / "logs"),
        "save_ckpt_dir": str(folder / "single"),
        "disable_textenc_training": True,
        "save_every_n_epochs": 1,
        "ema_decay_rate": 0.9,
    }


@pytest.fixture(scope="session")
def saved_run(short_values: Values) -> Trained:
    """The run with a checkpoint after its first epoch and one at its end; nobody changes it."""
    return train(short_values)


@pytest.fixture
def run_dir(saved_run: Trained, quick_path: Path) -> Path:
    """A copy of that run's folder to damage, in a folder of its own."""
    return shutil.copytree(saved_run.run_dir, quick_path / "logs" / saved_run.run_dir.name)


@pytest.fixture
def values(short_values: Values, quick_path: Path) -> Values:
    """The same settings, for a run of the test's own that writes no single files and keeps no average."""
    own = {name: value for name, value in short_values.items() if name not in ("ema_decay_rate", "save_ckpt_dir")}
    return {**own, "logdir": str(quick_path / "logs"), "no_save_ckpt": True}
