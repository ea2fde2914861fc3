"""What the page forecasts of a run."""

from pathlib import Path

from ed2.app.checks.forecast import forecast, measured_speed
from ed2.app.reporters.jsonl import JsonlReporter
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.events import MetricsLogged, RunStarted
from ed2.settings.files import with_defaults, write_settings
from ed2.settings.schema import Settings
from ed2.vram.card import Card


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


def run_on(device: str, logdir: Path, speed: float, settings: Settings) -> None:
    """A run that was told to be on a device, at a speed."""
    folder = logdir / f"cats_{device.partition(' in ')[0]}"
    folder.mkdir(parents=True)
    write_settings(folder / "settings.json", settings)
    told = JsonlReporter(folder)
    told(RunStarted(0, "cats", folder, 9, 0, 1, 8, device, {}))
    told(MetricsLogged(1, {IMAGES_PER_SECOND: speed}))
    told.close()


def test_the_speed_of_a_run_on_another_gpu_is_not_used(tmp_path: Path) -> None:
    settings = with_defaults({"resume_ckpt": "", "logdir": str(tmp_path)})
    old, new = Card(name="An old card"), Card(name="A new card")
    run_on("An old card in float16", tmp_path, 2.0, settings)
    assert (measured_speed(settings, old), measured_speed(settings, new)) == (2.0, None)
    run_on("A new card in bfloat16", tmp_path, 9.0, settings)
    assert (measured_speed(settings, old), measured_speed(settings, new)) == (2.0, 9.0)
