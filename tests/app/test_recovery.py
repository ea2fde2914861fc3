"""Whole runs that meet a lack of memory, numbers that are not finite, and pictures that fail to decode."""

from pathlib import Path

import pytest
import torch

from ed2.data import loader
from ed2.events import CheckpointSaved, EpochEnded, MetricsLogged, Warned
from ed2.training import loop
from ed2.training.objective import Objective
from ed2.training.state import Run
from ed2.training.update import update_weights
from tests.runs import Trained, Values, differing, train

NOT_A_NUMBER = float("nan")


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "batch_size": 4, "log_step": 1, "no_save_ckpt": True, "disable_textenc_training": True}


def texts(trained: Trained) -> str:
    return "\n".join(event.text for event in trained.of(Warned))


def losses(trained: Trained) -> list[float]:
    logged = [event.values["loss/log_step"] for event in trained.of(MetricsLogged) if "loss/log_step" in event.values]
    return [*logged, *(event.loss for event in trained.of(EpochEnded))]


def poison(monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
    """Give no number as the loss of the first picture of these batches, counted from 0 over all runs."""
    compute, count = Objective.__call__, iter(range(1_000_000))

    def poisoned(self: Objective, batch: loader.Batch) -> torch.Tensor:
        factors = torch.ones(len(batch))
        factors[0] = NOT_A_NUMBER if next(count) in calls else 1.0
        return compute(self, batch) * factors

    monkeypatch.setattr(Objective, "__call__", poisoned)


def test_three_steps_that_are_not_finite_take_the_run_back_to_its_last_checkpoint(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**values, "save_every_n_epochs": 1, "max_epochs": 4}
    straight = train({**values, "max_epochs": 1})
    steps = straight.ended.step
    poison(monkeypatch, range(steps + 1, steps + 9))
    trained = train(values)
    assert trained.ended.phase == "failed"
    assert trained.ended.step == steps + 3  # the fourth attempt after it, which is not counted, was the third bad one
    assert [event.step for event in trained.of(CheckpointSaved)] == [steps, 2 * steps]  # the second amidst the bad ones
    assert trained.checkpoint == trained.of(CheckpointSaved)[0].path
    assert f"last good checkpoint, {trained.checkpoint.name}" in trained.ended.reason
    assert "learning rate half as large" in trained.ended.reason
    assert not differing(straight.checkpoint, trained.checkpoint)
    assert texts(trained).count("was left out: the loss of") == 3
    assert all(loss == loss for loss in losses(trained))


def test_without_a_checkpoint_the_last_finite_weights_are_saved(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(2, 9))
    trained = train(values)
    assert trained.ended.phase == "failed"
    assert "no earlier checkpoint" in trained.ended.reason
    assert trained.checkpoint.name.startswith("errored-")


def test_weights_that_are_not_finite_are_never_saved(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    def update_too_far(run: Run) -> None:
        update_weights(run)
        next(iter(run.model.trained["unet"].parameters())).data[0] = NOT_A_NUMBER

    monkeypatch.setattr(loop, "update_weights", update_too_far)
    trained = train({**values, "save_every_n_epochs": 1})
    assert trained.ended.phase == "failed"
    assert not trained.of(CheckpointSaved)
    assert not list((trained.run_dir / "ckpts").glob("*"))
    assert texts(trained).count("weights hold numbers that are not finite") == 2  # after an epoch, and at the end


def test_a_picture_at_which_a_library_fails_is_named_and_the_run_goes_on(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = loader.decode

    def fails_on_one(path: Path, **named: object) -> object:
        if path.name == "03.png":
            raise ZeroDivisionError("a fault of the library")
        return decode(path, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "decode", fails_on_one)
    trained = train({**values, "max_epochs": 1})
    assert trained.ended.phase == "done"
    assert "03.png" in texts(trained) and "a fault of the library" in texts(trained)
