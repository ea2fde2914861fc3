"""Validation in whole runs: what is measured, when, and that training does not notice."""

from dataclasses import replace
from pathlib import Path

import pytest

from ed2.app.checks.check import run_check
from ed2.app.images.scanning import for_validation, sample_keys
from ed2.app.run import run_training
from ed2.checkpoint.identity import pin
from ed2.checkpoint.retention import LatestValidation
from ed2.data.example import Example
from ed2.errors import DatasetError
from ed2.events import CheckpointSaved, Event, EventBus, Progressed, RunStarted, ValidationDone
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


def test_a_run_without_improvement_ends_early_as_done_and_can_be_resumed(values: Values, images: Path) -> None:
    worse = {
        "val_split_mode": "manual",
        "manual_data_root": str(images),
        "lr": 0.05,
        "optimizer": "adamw",
        "max_epochs": 9,
    }
    trained = train({**values, **worse, "early_stop": 2, "sample_steps": 1000})
    done = trained.of(ValidationDone)
    assert len(done) < 10
    best = min(done, key=lambda event: event.values["loss/val"])
    assert [event.step for event in done].index(best.step) == len(done) - 3
    assert trained.ended.phase == "done"
    assert f"2 validations without improvement since step {best.step}" in trained.ended.reason
    assert trained.checkpoint.name.startswith("last-")
    again = train({"resume_ckpt": str(trained.run_dir), "logdir": values["logdir"]})
    assert again.run_dir == trained.run_dir
    assert len(again.of(ValidationDone)) >= 2, "it is given as many validations again"


def test_early_stop_changes_no_byte_and_is_exact_after_a_kill(values: Values, images: Path) -> None:
    validated = {"val_split_mode": "manual", "manual_data_root": str(images), "max_epochs": 4}
    whole = train({**values, **validated, "early_stop": 4})
    first = train({**values, **validated, "early_stop": 4}, stop_at=whole.ended.step // 2)
    rest = train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert not differing(whole.checkpoint, rest.checkpoint)


def test_a_validation_that_improves_saves_the_best_checkpoint_and_one_is_kept(values: Values, images: Path) -> None:
    own = {**values, "val_split_mode": "manual", "manual_data_root": str(images), "max_epochs": 4}
    trained = train({**own, "ckpt_every_n_minutes": 0.0001, "every_n_epochs": 0.5})
    saved = [event for event in trained.of(CheckpointSaved) if event.kind == "best"]
    assert len(saved) > 1
    lowest = min(trained.of(ValidationDone)[:-1], key=lambda event: event.values["loss/val"])
    assert saved[-1].step == lowest.step
    ckpts = trained.run_dir / "ckpts"
    assert [path.name for path in ckpts.glob("best-*")] == [saved[-1].path.name]
    assert (saved[-1].path / "training_state" / "state.json").is_file(), "it can be resumed"
    rare = train({**own, "ckpt_every_n_minutes": 60, "project_name": "rare"})
    assert [event.kind for event in rare.of(CheckpointSaved)] == ["last"], "at most as often as by time"


def test_the_best_checkpoint_is_saved_beside_that_of_an_epoch_and_stays_if_it_is_marked(
    values: Values, images: Path
) -> None:
    own = {**values, "val_split_mode": "manual", "manual_data_root": str(images), "max_epochs": 4}
    marked: list[Path] = []

    def mark_first(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.kind == "best" and not marked:
            marked.append(event.path)
            pin(event.path, True)

    trained = train({**own, "save_every_n_epochs": 1, "ckpt_every_n_minutes": 0.0001}, observer=mark_first)
    best = sorted(path.name for path in (trained.run_dir / "ckpts").glob("best-*"))
    assert len(best) == 2 and best[0] == marked[0].name
    assert {name.removeprefix("best-") for name in best} <= {path.name for path in trained.checkpoint.parent.iterdir()}


def test_the_disk_space_of_the_best_checkpoint_is_counted(values: Values, images: Path) -> None:
    def checkpoints(**more: object) -> int:
        return int(run_check({**values, **more}, None, quiet=True).as_object()["disk"]["checkpoints"])

    validated = {"val_split_mode": "automatic"}
    assert checkpoints(**validated) == checkpoints() + 1
    assert checkpoints(**validated, ckpt_every_n_minutes=0) == checkpoints()
