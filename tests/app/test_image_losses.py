"""The loss of each image: measured without a trace in the training, recorded with the run, exact after a resume."""

import json
from pathlib import Path

import pytest

from ed2.app.reporters.image_losses import IMAGE_LOSSES_FILE, ImageLoss, ImageLossReporter, losses_of_images
from ed2.app.run_settings import SETTINGS_FILE
from ed2.events import Event, ImagesMeasured, Progressed
from ed2.models.process import DiffusionProcess
from ed2.training.controls import Controls
from tests.runs import Values, differing, train


@pytest.fixture
def values(values: Values) -> Values:
    own = {"batch_size": 4, "no_save_ckpt": True, "disable_textenc_training": True, "max_epochs": 4}
    return {**values, **own, "sample_prompts": None}


def recorded(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / IMAGE_LOSSES_FILE).read_text().splitlines()]


def test_measuring_each_image_changes_no_byte_of_training_and_is_exact_after_a_stop(values: Values) -> None:
    plain = train(values)
    assert not (plain.run_dir / IMAGE_LOSSES_FILE).exists(), "off by default"
    whole = train({**values, "image_loss_every_n_epochs": 2})
    assert not differing(plain.checkpoint, whole.checkpoint)
    measured = whole.of(ImagesMeasured)
    per_epoch = whole.ended.step // 4
    assert [event.step for event in measured] == [0, 2 * per_epoch, 4 * per_epoch]
    assert len(measured[0].losses) == 8 and all(loss > 0 for loss in measured[0].losses.values())
    assert sum(measured[-1].losses.values()) < sum(measured[0].losses.values()), "it has learned something"

    first = train({**values, "image_loss_every_n_epochs": 2}, stop_at=3 * per_epoch)
    rest = train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert not differing(whole.checkpoint, rest.checkpoint)
    assert recorded(rest.run_dir) == recorded(whole.run_dir)
    names, *lines = recorded(whole.run_dir)
    assert names["images"] == sorted(measured[0].losses)
    assert [line["step"] for line in lines] == [event.step for event in measured]
    assert "ImagesMeasured" not in (whole.run_dir / "events.jsonl").read_text(), "thousands of numbers each"


def test_a_measurement_that_a_stop_interrupts_is_made_when_the_run_resumes(values: Values) -> None:
    own, controls = {**values, "image_loss_every_n_epochs": 1, "val_batch_size": 2}, Controls()

    def stop_in_the_second(event: Event) -> None:
        if isinstance(event, Progressed) and event.step and event.doing == "measuring image":
            controls.stop(2)

    first = train(own, observer=stop_in_the_second, controls=controls)
    assert [event.step for event in first.of(ImagesMeasured)] == [0]
    rest = train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    steps = [line["step"] for line in recorded(rest.run_dir)[1:]]
    assert steps == [0, *(epoch * rest.ended.step // 4 for epoch in (1, 2, 3, 4))]


def test_the_noise_levels_are_spread_evenly_over_what_is_trained() -> None:
    process = DiffusionProcess.from_config({"num_train_timesteps": 1000})
    assert process.spread_timesteps(4, 0, 1000).tolist() == [125, 375, 625, 875]
    assert process.spread_timesteps(4, 500, None).tolist() == [562, 687, 812, 937]
    few = DiffusionProcess.from_config({"num_train_timesteps": 20})
    assert few.spread_timesteps(4, 990, 1000).tolist() == [19, 19, 19, 19]


@pytest.mark.parametrize(
    ("losses", "progress"),
    [((1.0, 0.4), ""), ((1.0, 0.7, 0.49), "memorised"), ((1.0, 0.99, 0.98), "unlearned"), ((1.0, 0.9, 0.8), "")],
)
def test_an_image_is_judged_by_its_first_and_last_loss(losses: tuple[float, ...], progress: str) -> None:
    assert ImageLoss(losses[0], losses[-1], sum(losses), len(losses)).progress == progress


def test_the_newest_run_on_the_same_folders_is_read_without_torn_lines(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name, roots in (("a_run", [images]), ("b_other", [tmp_path / "elsewhere"])):
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        (folder / SETTINGS_FILE).write_text(json.dumps({"data_root": [str(root) for root in roots]}))
        reporter = ImageLossReporter(folder)
        reporter(ImagesMeasured(0, {"0/x.png": 0.5, "0/y.png": 0.25}))
        reporter(ImagesMeasured(9, {"0/y.png": float("nan"), "0/x.png": 0.1}))
        assert not reporter.close()
    resumed = ImageLossReporter(tmp_path / "logs" / "a_run")
    resumed(ImagesMeasured(12, {"0/x.png": 0.3}))
    resumed.close()
    with (tmp_path / "logs" / "a_run" / IMAGE_LOSSES_FILE).open("a") as file:
        file.write('{"step":15,"losses":[0.')
    assert len(recorded(tmp_path / "logs" / "b_other")) == 3
    found = losses_of_images(tmp_path / "logs", [images])
    assert found and (found.run, found.step) == ("a_run", 12)
    x, y = found.of["0/x.png"], found.of["0/y.png"]
    assert (x.first, x.last, x.count) == (0.5, 0.3, 3) and abs(x.mean - 0.3) < 1e-9
    assert (y.last, y.count) == (0.25, 1), "a number that is not finite is left out"
    assert losses_of_images(tmp_path / "logs", [images, images]) is None
