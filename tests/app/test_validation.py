"""Validation in whole runs: what is measured, when, and that training does not notice."""

from dataclasses import replace
from pathlib import Path

import pytest

from ed2.app.checks.check import run_check
from ed2.app.images.validating import for_validation, sample_keys
from ed2.app.run import run_training
from ed2.checkpoint.retention import LatestValidation
from ed2.data.example import Example
from ed2.errors import DatasetError
from ed2.events import EventBus, Progressed, RunStarted, ValidationDone
from ed2.training.controls import Controls
from tests.runs import Values, differing, train


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "batch_size": 4, "no_save_ckpt": True, "disable_textenc_training": True}


def test_validation_changes_no_byte_of_training_and_is_repeatable(values: Values, images: Path) -> None:
    plain = train(values)
    extra = {
        "val_split_mode": "manual",
        "manual_data_root": str(images),
        "extra_manual_datasets": [f"again={images}"],
        "stabilize_training_loss": True,
        "every_n_epochs": 0.5,
        "val_batch_size": 3,
    }
    validated = train({**values, **extra})
    assert not differing(plain.checkpoint, validated.checkpoint)
    counted = [(told.place, told.total) for told in validated.of(Progressed) if told.doing == "validating"]
    per_time = len(counted) // len(validated.of(ValidationDone))
    assert counted[0][0] == 3 and counted[per_time - 1][0] == counted[0][1] > 16, "of all three curves together"
    done = validated.of(ValidationDone)
    steps = validated.ended.step // 2
    assert [event.step for event in done] == [0, -(-steps // 2), steps, steps + -(-steps // 2), 2 * steps]
    assert all(set(event.values) == {"loss/val", "loss/again", "loss/train_stabilized"} for event in done)
    assert all(event.values["loss/val"] == event.values["loss/again"] for event in done)
    assert done[0].values["loss/val"] > done[-1].values["loss/val"]
    once_more = train({**values, **extra, "val_batch_size": 1, "decode_threads": 3})
    first, second = done[0].values, once_more.of(ValidationDone)[0].values
    assert all(abs(first[tag] - second[tag]) < 1e-5 for tag in first)


def test_an_automatic_split_is_not_trained_on_and_counted_by_the_check(values: Values) -> None:
    split = {"val_split_mode": "automatic", "auto_split_proportion": 0.3, "every_n_epochs": 2}
    trained = train({**values, **split})
    assert trained.of(RunStarted)[0].images == 5
    assert any("3 of 8 images are held out for validation" in note for note in trained.of(RunStarted)[0].notes)
    assert [event.step for event in trained.of(ValidationDone)] == [0, trained.ended.step]
    told = run_check({**values, **split}, None, quiet=True).as_object()
    assert len(told["images"]) == 8 and told["total_steps"] == trained.ended.step


def test_a_validation_folder_without_images_is_named(values: Values, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty"):
        train({**values, "val_split_mode": "manual", "manual_data_root": str(tmp_path / "empty")})


def examples(count: int) -> list[Example]:
    return [Example(Path(f"{n}"), 0, f"{n}", "a", (64, 64), (64, 64), multiply=2, flip_p=0.5) for n in range(count)]


def test_the_split_is_rounded_up_and_leaves_images_to_train() -> None:
    assert len(sample_keys(examples(100), 0.15, 555)) == 15
    assert len(sample_keys(examples(101), 0.15, 555)) == 16
    assert len(sample_keys(examples(2), 0.99, 555)) == 1
    assert sample_keys(examples(1), 0.15, 555) == frozenset()
    assert (
        sample_keys(examples(50), 0.2, 1)
        == sample_keys(examples(50)[::-1], 0.2, 1)
        != sample_keys(examples(50), 0.2, 2)
    )


def test_entries_of_one_file_are_chosen_together() -> None:
    twice = [replace(example, entry=entry) for example in examples(10) for entry in range(2)]
    keys = sample_keys(twice, 0.3, 555)
    assert len(keys) == 6 and len({key.partition("#")[0] for key in keys}) == 3


def test_images_are_validated_once_without_augmentation() -> None:
    (only,) = for_validation(examples(1))
    assert (only.multiply, only.flip_p, only.cond_dropout, only.loss_scale) == (1, 0, 0, 1)


def test_a_resumed_run_subscribes_once_for_its_validations(values: Values) -> None:
    first = train(values, stop_at=1)
    bus = EventBus()
    again: Values = {"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]}
    assert run_training(again, None, bus=bus, controls=Controls()).phase == "done"
    assert [type(observer) for observer in bus.observers].count(LatestValidation) == 1
