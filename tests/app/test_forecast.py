"""What the page forecasts of a run."""

from pathlib import Path

import pytest

from ed2.app import measured
from ed2.app.checks.check import forecast
from ed2.app.measured import Speeds, SpeedWatch, measured_speed
from ed2.app.preflight import model_sizes
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.events import MetricsLogged, RunEnded
from ed2.settings.files import with_defaults
from ed2.vram.card import Card
from ed2.vram.shapes import shape_of


def test_the_size_of_a_checkpoint_depends_on_the_planned_gpu() -> None:
    settings = with_defaults({"resume_ckpt": "", "device": "cpu"})
    here, on_card = (forecast(settings, None, vram_gb).checkpoint_bytes for vram_gb in (None, 12))
    assert here > on_card  # AdamW against its 8-bit form


def test_an_existing_folder_that_is_not_a_model_is_not_called_missing(tmp_path: Path) -> None:
    told = [
        " ".join(forecast(with_defaults({"resume_ckpt": str(base)}), None).notes) for base in (tmp_path, "nobody/none")
    ]
    assert f"{tmp_path} holds no model that can be trained here, so an SD 1.x model is planned" in told[0]
    assert "nobody/none is not on this disk" in told[1] and "not on this disk" not in told[0]


def test_the_speed_of_a_run_is_told_for_runs_of_its_kind_on_its_device_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "SPEEDS_FILE", tmp_path / "speeds.json")
    settings = with_defaults({"resume_ckpt": ""})
    sizes = model_sizes(settings)
    shape = sizes.shape
    old, new = Card(name="An old card"), Card(name="A new card")
    watch = SpeedWatch(settings, shape, old.name)
    watch(MetricsLogged(1, {IMAGES_PER_SECOND: 0.5}))  # the first steps are slow
    watch(MetricsLogged(2, {IMAGES_PER_SECOND: 2.0}))
    assert measured_speed(settings, sizes, old) is None
    watch(MetricsLogged(3, {IMAGES_PER_SECOND: 2.5}))  # kept now, in case the program is killed
    assert (measured_speed(settings, sizes, old), measured_speed(settings, sizes, new)) == (2.0, None)
    watch(MetricsLogged(4, {IMAGES_PER_SECOND: 2.5}))
    watch(RunEnded(4, "done", "", 1.0))
    assert measured_speed(settings, sizes, old) == 2.25
    for change in ({"resolution": 768}, {"batch_size": 4}, {"method": "lora"}):
        assert measured_speed(settings.replaced(**change), sizes, old) is None
    other = model_sizes(with_defaults({"resume_ckpt": "ed2/demo/base"}))
    assert other.family == sizes.family and measured_speed(settings, other, old) is None


def test_a_damaged_file_of_speeds_tells_nothing(tmp_path: Path) -> None:
    settings = with_defaults({})
    shape = shape_of("sd1")
    found = Speeds(tmp_path / "speeds.json")
    for content in ("{", "[]", '{"a": 1}'):
        found.file.write_text(content)
        assert found.of(settings, shape, "the CPU") is None
    found.add(settings, shape, "the CPU", 3.14159265)
    assert found.of(settings, shape, "the CPU") == 3.142
    found.file.write_text(found.file.read_text().replace("3.142", '"fast"'))
    assert found.of(settings, shape, "the CPU") is None
