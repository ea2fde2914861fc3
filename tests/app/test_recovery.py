"""Whole runs that meet a lack of memory, numbers that are not finite, and images that fail to decode."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ed2.app.reporters.jsonl import read_events
from ed2.checkpoint import snapshot
from ed2.data import full_reads
from ed2.data.loader import Batch
from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    MetricsLogged,
    PhaseChanged,
    RunStarted,
    SamplesMade,
    ValidationDone,
    Warned,
)
from ed2.models.families.sd import StableDiffusion
from ed2.training import optimizers
from ed2.training.objective import Objective
from ed2.training.optimizers import Optimizers, parameters_of
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
    """Give no number as the loss of the first image of these batches, counted from 0 over all runs."""
    compute, count = Objective.__call__, iter(range(1_000_000))

    def poisoned(self: Objective, batch: Batch) -> torch.Tensor:
        factors = torch.ones(len(batch))
        factors[0] = NOT_A_NUMBER if next(count) in calls else 1.0
        return compute(self, batch) * factors

    monkeypatch.setattr(Objective, "__call__", poisoned)


def test_three_non_finite_steps_roll_the_run_back_to_its_last_checkpoint(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**values, "save_every_n_epochs": 1, "max_epochs": 4}
    straight = train({**values, "max_epochs": 1})
    steps = straight.ended.step
    poison(monkeypatch, range(steps + 1, steps + 9))
    trained = train(values)
    assert trained.ended.phase == "failed"
    compared = [event for event in trained.of(PhaseChanged) if event.phase == "stopping"]
    assert compared and compared[0].step == steps + 3 and compared[0].detail.startswith("comparing every byte of tiny-")
    assert trained.ended.step == steps + 3  # the fourth attempt after it, which is not counted, was the third bad one
    assert [event.step for event in trained.of(CheckpointSaved)] == [steps, 2 * steps]  # the second amidst the bad ones
    assert trained.checkpoint == trained.of(CheckpointSaved)[0].path
    assert f"last good checkpoint, {trained.checkpoint.name}" in trained.ended.reason
    assert "half the learning rate" in trained.ended.reason
    assert not differing(straight.checkpoint, trained.checkpoint)
    assert texts(trained).count("was skipped: the loss of") == 3
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
    step = Optimizers.step

    def step_too_far(self: Optimizers) -> None:
        step(self)
        parameters_of(self.by_network["unet"])[0].data[0] = NOT_A_NUMBER

    monkeypatch.setattr(Optimizers, "step", step_too_far)
    trained = train({**values, "save_every_n_epochs": 1})
    assert trained.ended.phase == "failed"
    assert not trained.of(CheckpointSaved)
    assert not list((trained.run_dir / "ckpts").glob("*"))
    for told in (texts(trained), trained.ended.reason):  # after an epoch, and at the end
        assert told.count("some weights are not finite") == 1


def fail_updates(monkeypatch: pytest.MonkeyPatch, calls: set[int], error: Exception) -> None:
    """Raise between the updates of two networks, or after that of the only one; updates count from 0 over all runs."""
    count, step = iter(range(1_000_000)), Optimizers.step

    def step_or_fail(self: Optimizers) -> None:
        if next(count) in calls:
            next(iter(self)).step()
            raise error
        step(self)

    monkeypatch.setattr(Optimizers, "step", step_or_fail)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
LAUNCH_FAILURE = RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(
    ("optimizer", "saving", "calls", "place"),
    [
        ("adamw8bit", {}, {3}, "step 0, where the run started"),
        ("schedulefree", {"save_every_n_epochs": 1}, {4}, "checkpoint tiny-ep00-gs00003"),
        ("adamw", {"save_every_n_epochs": 1}, {1, 6}, "checkpoint tiny-ep00-gs00003"),
    ],
    ids=["before the first checkpoint", "after a checkpoint", "both"],
)
def test_a_failed_update_rolls_the_run_back_and_it_ends_with_the_same_bytes(
    values: Values, monkeypatch: pytest.MonkeyPatch, optimizer: str, saving: Values, calls: set[int], place: str
) -> None:
    ema = {"ema_decay_rate": 0.9, "ema_update_interval": 1}
    values = {**values, **saving, **ema, "optimizer": optimizer, "disable_textenc_training": False, "flip_p": 0.5}
    straight = train(values)
    fail_updates(monkeypatch, calls, OUT_OF_MEMORY)
    trained = train(values)
    assert trained.ended.phase == "done"
    assert not differing(straight.checkpoint, trained.checkpoint)
    assert len(trained.of(RunStarted)) == 1 + len(calls)
    notes = " ".join(trained.of(RunStarted)[-1].notes)
    assert place in notes and "Updating the weights failed" in notes
    assert len(list(trained.run_dir.parent.iterdir())) == 2  # the run stays in its folder
    logged = [event.step for _, event in read_events(trained.run_dir) if isinstance(event, MetricsLogged)]
    assert logged == list(range(1, trained.ended.step + 1))


def test_the_same_failure_twice_ends_the_run_with_its_last_checkpoint(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_updates(monkeypatch, {4, 5}, LAUNCH_FAILURE)
    trained = train({**values, "disable_textenc_training": False, "save_every_n_epochs": 1})
    assert trained.ended.phase == "failed"
    assert len(trained.of(RunStarted)) == 2
    assert trained.checkpoint == trained.of(CheckpointSaved)[-1].path
    assert "unspecified launch failure" in trained.ended.reason and trained.checkpoint.name in trained.ended.reason
    assert not list((trained.run_dir / "ckpts").glob("errored-*"))


def test_the_same_failure_twice_before_the_first_checkpoint_ends_the_run_with_nothing_saved(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_updates(monkeypatch, {1, 3}, OUT_OF_MEMORY)
    trained = train(values)
    assert trained.ended.phase == "failed"
    assert trained.ended.checkpoint is None
    assert "Out of memory while updating the weights." in trained.ended.reason
    assert "no earlier checkpoint" in trained.ended.reason


def test_state_that_does_not_fit_ends_the_run_before_its_first_step_with_settings_to_change(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_state(optimizer: torch.optim.Optimizer, parameters: object) -> None:
        raise OUT_OF_MEMORY

    monkeypatch.setattr(optimizers, "make_state", make_state)
    trained = train({**values, "disable_textenc_training": False})
    assert trained.ended.phase == "failed" and trained.ended.step == 0
    assert "optimizer state" in trained.ended.reason and "adamw8bit" in trained.ended.reason


def test_an_image_that_crashes_a_library_is_named_and_the_run_continues(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(decode: Callable[..., object]) -> Callable[..., object]:
        def decode_all_but_one(path: Path, *options: object) -> object:
            if path.name == "03.png":
                raise ZeroDivisionError("a fault of the library")
            return decode(path, *options)

        return decode_all_but_one

    for name in ("decode", "decode_and_check"):
        monkeypatch.setattr(full_reads, name, failing(getattr(full_reads, name)))
    trained = train({**values, "max_epochs": 1})
    assert trained.ended.phase == "done"
    assert "03.png" in texts(trained) and "a fault of the library" in texts(trained)


def too_little_memory(monkeypatch: pytest.MonkeyPatch, *, training: int, else_: int) -> None:
    """Let the model run out of memory on more rows than these in one pass."""
    predict = StableDiffusion.predict

    def checked(self: StableDiffusion, noisy_latents: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if len(noisy_latents) > (training if torch.is_grad_enabled() else else_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return predict(self, noisy_latents, *rest)

    monkeypatch.setattr(StableDiffusion, "predict", checked)


@pytest.fixture
def busy(values: Values, images: Path, tmp_path: Path) -> Values:
    """A run that also validates and draws samples."""
    prompts = tmp_path / "prompts.json"
    common = {"cfgs": [1, 4], "num_inference_steps": 4, "size": [16, 16]}
    prompts.write_text(json.dumps({**common, "samples": [{"prompt": "a"}, {"prompt": "b"}]}))
    validation = {"val_split_mode": "manual", "manual_data_root": str(images)}
    return {**values, **validation, "sample_prompts": str(prompts), "max_epochs": 1, "logdir": str(tmp_path / "busy")}


@pytest.mark.parametrize("rows", [2, 0], ids=["little", "none"])
def test_running_out_of_memory_in_validation_and_samples_changes_no_byte_of_training(
    values: Values, busy: Values, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    straight = train({**values, "max_epochs": 1})
    threads = threading.active_count()
    too_little_memory(monkeypatch, training=100, else_=rows)
    trained = train(busy)
    assert trained.ended.phase == "done"
    assert not differing(straight.checkpoint, trained.checkpoint)
    assert threading.active_count() == threads
    assert len(trained.of(ValidationDone)) == (2 if rows else 0)
    assert len(trained.of(SamplesMade)) == (2 if rows else 0)  # one prompt takes two rows
    assert "validation of step 0" in texts(trained) and "samples of step 0" in texts(trained)


def test_running_out_of_memory_in_a_save_is_reported_and_the_next_save_works(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, count = snapshot.flatten_state, iter(range(100))

    def fails_twice(*anything: Any) -> Any:  # for the copy of the first save, and for the save without a copy
        if next(count) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return copy(*anything)

    straight = train({**values, "save_every_n_epochs": 1})
    monkeypatch.setattr(snapshot, "flatten_state", fails_twice)
    trained = train({**values, "save_every_n_epochs": 1})
    assert trained.ended.phase == "done"
    assert "try again at the next interval" in texts(trained)
    assert len(trained.of(CheckpointSaved)) == len(straight.of(CheckpointSaved)) - 1
    assert not differing(straight.checkpoint, trained.checkpoint)


def test_a_run_with_split_batches_learns_the_same_and_keeps_them_after_a_stop(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**values, "optimizer": "lion", "lr": 1e-5}
    straight = train(values)
    too_little_memory(monkeypatch, training=1, else_=100)
    stopped = train(values, stop_at=4)
    assert "gradient checkpointing, which stays on" in texts(stopped)
    assert "with 1 image at a time" in texts(stopped)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(values["logdir"])})
    assert resumed.run_dir == stopped.run_dir and resumed.ended.phase == "done"
    assert "mathematically equal, but not bit-identical" in texts(resumed)
    assert "Retrying" not in texts(resumed)
    both = [*losses(stopped)[:4], *losses(resumed)]
    assert losses(straight)[:3] == pytest.approx(both[:3], rel=1e-3)
    assert losses(straight)[-1] == pytest.approx(both[-1], rel=1e-3)


def test_a_single_image_that_does_not_fit_ends_the_run_with_three_settings_to_change(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_little_memory(monkeypatch, training=0, else_=100)
    trained = train({**values, "disable_textenc_training": False})
    assert trained.ended.phase == "failed"
    assert [w in trained.ended.reason for w in ("adamw8bit", "disable_textenc", "batch_size 1")] == [True] * 3
