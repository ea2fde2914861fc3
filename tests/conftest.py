"""What many tests share: tiny models and images, made once; no network."""

import gc
import logging
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from ed2.garbage import without_collection
from tests.unchanged import unchanged

os.environ["HF_HUB_OFFLINE"] = "1"
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # before a test reads it, as programs have it quiet

SIZES = [(96, 96), (100, 90), (96, 64), (160, 90), (64, 96), (90, 160), (128, 128), (70, 110)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Find the tests without collecting garbage, which takes a quarter of the time while libraries are loaded."""
    with without_collection():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; begin with the slow files, so that all processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("browser") is None, item.path not in slow))
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD1 model that predicts noise."""
    from tests.tiny import make_model

    return make_model(tmp_path_factory.mktemp("models") / "sd1")


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD2 model that predicts velocity."""
    from tests.tiny import make_model

    return make_model(tmp_path_factory.mktemp("models") / "sd2", family="sd2", prediction_type="v_prediction")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL model that predicts noise."""
    from tests.tiny import make_model

    return make_model(tmp_path_factory.mktemp("models") / "sdxl", family="sdxl")


@pytest.fixture
def tiny_configs(sd1: Path, sd2: Path, sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, while single files are read by the configurations of the tiny models, not by the full-size ones."""
    for family, folder in (("sd1", sd1), ("sd2", sd2), ("sdxl", sdxl)):
        shutil.copytree(folder, tmp_path / "configs" / family, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr("ed2.models.files.source.CONFIGS", tmp_path / "configs")
    return tmp_path


@pytest.fixture(scope="session")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP model, which captions images."""
    from tests.tiny import make_captioner

    return make_captioner(tmp_path_factory.mktemp("models") / "blip")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Eight captioned images of several shapes, which no run, check or page may change."""
    from tests.tiny import make_images

    folder = make_images(tmp_path_factory.mktemp("data") / "images", SIZES)
    with unchanged(folder):
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _own_image_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs remember of images stays out of the user's folder."""
    from ed2.app.images import scanning

    scanning.INDEX_FILE = tmp_path_factory.mktemp("user") / "index.json"


@pytest.fixture(scope="session", autouse=True)
def _own_speeds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs remember of their speed stays out of the user's folder."""
    from ed2.app import measured

    measured.SPEEDS_FILE = tmp_path_factory.mktemp("user") / "speeds.json"


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Two test processes share two cores; and the bytes of a result depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """What is there before the tests of a file is looked at once: a run collects garbage twice, among all of torch."""
    gc.collect()
    gc.freeze()
