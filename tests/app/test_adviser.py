"""What the adviser says of made-up curves."""

import random
from pathlib import Path

import pytest

from ed2.app.adviser import advise, advise_on
from ed2.app.reporters.image_losses import losses_of_images
from ed2.app.run_view import RunView
from ed2.app.runs.records import replay_run
from ed2.app.snapshot import Point
from ed2.app.user_files import preset_values
from ed2.curve_names import LOSS_STABILIZED, LOSS_VAL
from ed2.events import ValidationDone
from ed2.settings.files import PROGRAM_DIR
from tests.runs import train


def curve(*values: float) -> list[Point]:
    return [Point(100 * place, value, value, value) for place, value in enumerate(values)]


MEASURED_V = curve(0.5593, 0.4383, 0.3718, 0.3883, 0.3813, 0.3787, 0.3905, 0.3968, 0.4230, 0.4347, 0.4526)
MEASURED_T = curve(0.5178, 0.4377, 0.2966, 0.2776, 0.2723, 0.2037, 0.1854, 0.1458, 0.1036, 0.1042, 0.1224)
"""Of the run in `test_an_overfit_of_the_demo_is_called_memorising`."""
FALLING = curve(0.30, 0.28, 0.26, 0.25, 0.24, 0.235, 0.23, 0.22)
TURNING = curve(0.30, 0.28, 0.26, 0.25, 0.256, 0.262, 0.27, 0.28)
RISING = curve(0.30, 0.31, 0.32, 0.33, 0.35, 0.36, 0.38, 0.40)
LEVEL = curve(0.30, 0.28, 0.25, 0.2500, 0.2502, 0.2501, 0.2499, 0.2500)


@pytest.mark.parametrize(
    ("validation", "stable", "verdict", "since"),
    [
        ([], [], "off", None),
        ([], FALLING, "off", None),
        (FALLING[:2], FALLING[:2], "early", None),
        (FALLING, FALLING, "learning", None),
        (FALLING, [], "learning", None),
        (TURNING, FALLING, "memorising", 300),
        (TURNING, [], "memorising", 300),
        (TURNING[:6], FALLING[:6], "memorising", 300),
        (TURNING[:5], FALLING[:5], "learning", None),
        (TURNING[:6], [], "learning", None),
        (TURNING, RISING, "learning", None),
        (MEASURED_V, MEASURED_T, "memorising", 200),
        (MEASURED_V[:8], MEASURED_T[:8], "learning", None),
        (LEVEL, LEVEL, "flat", None),
        (LEVEL, FALLING, "learning", None),
        (RISING, RISING, "unstable", None),
        (RISING, FALLING, "memorising", 0),
        (RISING, [], "unstable", None),
    ],
)
def test_made_up_curves_are_told_apart(validation, stable, verdict: str, since: int | None) -> None:
    advice = advise_on(validation, stable)
    assert (advice.verdict, advice.since) == (verdict, since)
    assert advice.headline and advice.text
    if since:
        assert f"since step {since}" in advice.headline


@pytest.mark.parametrize(
    ("validation", "while_it_runs", "once_over"),
    [
        (FALLING, "has just reached a new low", "fell until the end: more epochs may still"),
        (TURNING[:6], "was lowest 2 validations ago", "was lowest 2 validations before the end"),
        (TURNING[:5], "was lowest 1 validation ago", "was lowest 1 validation before the end"),
        (LEVEL, "otherwise you can stop", "of the next run"),
        (RISING, "Stop, lower it", "was probably too high. Lower it"),
        (TURNING, "memorises these images", "memorised these images"),
        (FALLING[:2], "3 validations in all", "validate more often"),
    ],
)
def test_the_words_fit_the_state_of_the_run_and_the_end_of_the_curve(
    validation: list[Point], while_it_runs: str, once_over: str
) -> None:
    assert while_it_runs in advise_on(validation).text
    over = advise_on(validation, is_over=True)
    assert once_over in over.text
    assert over.headline != advise_on(validation).headline


def test_noise_within_the_margin_is_no_sign_of_memorising() -> None:
    draw = random.Random(5)
    for _ in range(50):
        noisy = curve(0.30, 0.27, *(0.25 + draw.uniform(0, 0.002) for _ in range(12)))
        assert advise_on(noisy, FALLING).verdict in ("learning", "flat")


def test_the_best_validation_is_named_whatever_the_verdict() -> None:
    for validation in (FALLING, TURNING, LEVEL, RISING):
        lowest = min(validation, key=lambda point: point.mean)
        assert advise_on(validation, FALLING).best == (lowest.step, lowest.mean)


def test_a_run_is_judged_by_the_curves_that_it_logs() -> None:
    view = RunView()
    for falling, turning in zip(FALLING, TURNING, strict=True):
        view(ValidationDone(falling.step, {LOSS_VAL: turning.mean, LOSS_STABILIZED: falling.mean}))
    assert advise(view.snapshot()).verdict == "memorising"
    assert advise(view.snapshot()).headline.startswith("Began to memorise")
    view.change("status", state="training")
    assert advise(view.snapshot()).headline.startswith("Starting to memorise")


@pytest.mark.soak
def test_an_overfit_of_the_demo_is_called_memorising(tmp_path: Path) -> None:
    own = {"lr": 2e-3, "lr_scheduler": "constant", "max_epochs": 100, "seed": 1, "logdir": str(tmp_path)}
    validated = {"val_split_mode": "automatic", "auto_split_proportion": 0.6, "every_n_epochs": 10}
    stabilized = {"stabilize_training_loss": True, "stabilize_split_proportion": 0.5}
    measured = {"image_loss_every_n_epochs": 50, "no_save_ckpt": True, "sample_prompts": None}
    demo = preset_values(PROGRAM_DIR / "presets" / "demo.json")
    trained = train({**demo, **own, **validated, **stabilized, **measured})
    shown = replay_run(trained.run_dir)
    advice = advise(shown)
    assert (advice.verdict, advice.best and advice.best[0]) == ("memorising", advice.since)
    assert advice.since is not None and 0 < advice.since < shown.step / 2
    losses = losses_of_images(tmp_path, [Path(root) for root in demo["data_root"]])
    assert losses and {loss.progress for loss in losses.of.values()} == {"memorised"}
