"""One short run with three checkpoints, copied by each test that damages something."""

import shutil
from pathlib import Path

import pytest

from tests.runs import Trained, train

Values = dict[str, object]


@pytest.fixture(scope="session")
def short_values(tmp_path_factory: pytest.TempPathFactory, sd1: Path, pictures: Path) -> Values:
    """Settings of a run of four steps that trains the UNet alone."""
    folder = tmp_path_factory.mktemp("saves")
    return {
        "project_name": "tiny",
        "data_root": [str(pictures)],
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
def run_dir(saved_run: Trained, tmp_path: Path) -> Path:
    """A copy of that run's folder to damage, under `tmp_path/logs`."""
    return shutil.copytree(saved_run.run_dir, tmp_path / "logs" / saved_run.run_dir.name)


@pytest.fixture
def values(short_values: Values, tmp_path: Path) -> Values:
    """The same settings, for a run of the test's own that writes no single files and keeps no average."""
    own = {name: value for name, value in short_values.items() if name not in ("ema_decay_rate", "save_ckpt_dir")}
    return {**own, "logdir": str(tmp_path / "logs"), "no_save_ckpt": True}
