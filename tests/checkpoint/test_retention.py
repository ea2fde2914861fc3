"""What stays: everything unless told otherwise; the newest, the best and the marked ones always."""

import json
import shutil
from pathlib import Path

import pytest

from ed2.app.run_settings import newest_state
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.folder import Damage, find_damage, whole_folder
from ed2.checkpoint.identity import KEEP_FILE, average_of, checkpoints_of, pin
from ed2.checkpoint.retention import Retention
from ed2.events import CheckpointSaved, Warned
from tests.runs import Trained, train

Values = dict[str, object]


def save(ckpts: Path, step: int, loss: float | None = None, second: int | None = None) -> Path:
    """A checkpoint as far as retention looks at it, saved at the `second` of a minute; by default at its step's."""
    second = step if second is None else second
    validation = None if loss is None else {"step": step, "loss": loss}
    about = {"step": step, "saved_at": f"2026-01-01T00:00:{second:02d}", "validation": validation}
    target = ckpts / f"tiny-ep00-gs{step:05d}"
    for folder in (target, target.with_name(f"{target.name}_ema")):
        with whole_folder(folder, about) as new:
            new.add("model_index.json", b"{}")
            if folder is target:
                new.add("training_state/state.json", json.dumps({"format": 2}).encode())
    return target


def steps(ckpts: Path, pattern: str = "[!.]*") -> list[int]:
    names = [f.parent.name for f in ckpts.glob(f"{pattern}/model_index.json")]
    return sorted(int(name.rpartition("-gs")[2]) for name in names if not name.endswith("_ema"))


def states(ckpts: Path) -> list[int]:
    return sorted(int(f.parent.name.rpartition("-gs")[2]) for f in ckpts.glob("[!.]*/training_state"))


def test_by_default_all_are_kept_and_the_newest_three_keep_their_training_state(tmp_path: Path) -> None:
    for step in range(1, 8):
        assert Retention(None, None).thin(save(tmp_path, step, loss=0.5)) == []
    assert steps(tmp_path) == list(range(1, 8))
    assert states(tmp_path) == [5, 6, 7]
    assert all(find_damage(folder) is None for folder in tmp_path.iterdir())
    assert not list(tmp_path.rglob(".trash*"))


def test_the_newest_the_best_and_the_pinned_ones_are_kept(tmp_path: Path) -> None:
    losses = {1: 0.5, 2: 0.2, 3: 0.2, 4: 0.4, 5: None, 6: 0.3, 7: 0.6}
    shutil.copytree(save(tmp_path / "else", 9), tmp_path / "tiny-ep00-gs00009_ema")
    shutil.rmtree(tmp_path / "else")
    for step, loss in losses.items():
        target = save(tmp_path, step, loss)
        if step == 4:
            pin(target, True)
        assert Retention(2, None).thin(target) == []
    assert steps(tmp_path) == [2, 4, 6, 7]
    assert states(tmp_path) == [4, 6, 7], "a marked one keeps its training state too"
    assert {f.name for f in tmp_path.glob("*_ema")} == {f"tiny-ep00-gs{step:05d}_ema" for step in (2, 4, 6, 7)}
    pin(tmp_path / "tiny-ep00-gs00004", False)
    Retention(2, None).thin(tmp_path / "tiny-ep00-gs00007")
    assert steps(tmp_path) == [2, 6, 7]


def test_a_clock_that_was_set_back_makes_no_checkpoint_older(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for step, second in {1: 50, 2: 51, 3: 3, 4: 4, 5: 5}.items():
        newest = save(run_dir / "ckpts", step, second=second)
        assert Retention(2, None).thin(newest) == []
        pin(run_dir / "ckpts" / "tiny-ep00-gs00001", True)  # changes the folder's time
        assert checkpoints_of(run_dir)[-1] == newest
        assert newest_state(tmp_path) == newest / "training_state" / "state.json"
    assert steps(run_dir / "ckpts") == [1, 4, 5]
    other = save(tmp_path / "other" / "ckpts", 1, second=6)
    assert newest_state(tmp_path) == other / "training_state" / "state.json", "runs are compared by the clock"


def test_a_new_checkpoint_is_kept_next_to_later_steps(tmp_path: Path) -> None:
    for step in (7, 8, 9):
        save(tmp_path, step)
    newest = save(tmp_path, 1)
    assert Retention(2, None).thin(newest) == []
    assert (newest / "training_state").is_dir()
    assert steps(tmp_path) == [1, 8, 9]


def test_a_pin_on_an_ema_keeps_it_and_its_checkpoint(tmp_path: Path) -> None:
    marked, lone, *_, newest = (save(tmp_path, step) for step in range(1, 6))
    for checkpoint in (marked, lone):
        (average_of(checkpoint) / KEEP_FILE).touch()
    shutil.rmtree(lone)
    Retention(1, None).thin(newest)
    assert steps(tmp_path) == [1, 5]
    assert average_of(marked).is_dir() and average_of(lone).is_dir()
    pin(marked, False)
    Retention(1, None).thin(newest)
    assert steps(tmp_path) == [5]


def test_what_cannot_be_removed_is_reported_and_the_rest_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 5):
        newest = save(tmp_path, step)
    real = shutil.rmtree

    def refuse(path: Path, *given: object, **options: object) -> None:
        if "gs00001" in str(path) and "_ema" not in str(path):
            raise PermissionError(13, "in use")
        real(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    (sentence,) = Retention(2, None).thin(newest)
    assert sentence.endswith("tiny-ep00-gs00001 could not be removed: permission to write there is denied.")
    assert steps(tmp_path) == [3, 4]


def test_single_files_go_with_their_checkpoint_if_this_run_wrote_them(values: Values, tmp_path: Path) -> None:
    single = tmp_path / "single"
    trained = train({**values, "max_epochs": 4, "keep_last": 2, "no_save_ckpt": False, "save_ckpt_dir": str(single)})
    saved = trained.of(CheckpointSaved)
    kept = [event.path for event in saved[-2:]]
    assert len(saved) == 4
    assert sorted(f for f in (trained.run_dir / "ckpts").iterdir()) == sorted(kept)
    assert sorted(f.stem for f in single.iterdir()) == sorted(path.name for path in kept)
    assert not trained.of(Warned) or all("removed" not in event.text for event in trained.of(Warned))
    name = kept[0].name
    shutil.copyfile(single / f"{name}.safetensors", single / f"{name} (2).safetensors")
    copied = shutil.copytree(trained.run_dir / "ckpts", tmp_path / "copied")
    assert not Retention(1, Exporter(single, "another run")).thin(copied / kept[1].name)
    assert not (copied / name).exists() and len(list(single.glob(f"{name}*"))) == 2
    assert not Retention(1, Exporter(single, trained.run_dir.name)).thin(kept[1])
    assert not list(single.glob(f"{name}*"))


def test_a_yaml_goes_with_its_single_file_unless_another_file_needs_it_or_it_is_not_ours(
    saved_run: Trained, tmp_path: Path
) -> None:
    exporter = Exporter(tmp_path / "single", saved_run.run_dir.name)
    ckpts = tmp_path / "ckpts"
    outcomes = {}
    for others in ("nothing", "a .ckpt", "an edited .yaml"):
        shutil.rmtree(ckpts, ignore_errors=True)
        old = shutil.copytree(saved_run.checkpoint, ckpts / saved_run.checkpoint.name)
        new = shutil.copytree(saved_run.checkpoint, ckpts / "tiny-ep99-gs00099")
        beside = exporter.write(old, "sd1", "v_prediction").with_suffix(".yaml")
        if others == "a .ckpt":
            beside.with_suffix(".ckpt").touch()
        if others == "an edited .yaml":
            beside.with_suffix(".ckpt").unlink()
            beside.write_text(beside.read_text() + "# mine")
        assert not Retention(1, exporter).thin(new)
        assert not old.exists() and not beside.with_suffix(".safetensors").exists()
        outcomes[others] = beside.exists()
    assert outcomes == {"nothing": False, "a .ckpt": True, "an edited .yaml": True}


def test_an_error_while_checking_older_checkpoints_does_not_spoil_a_save(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ed2.checkpoint import retention

    def refuse(checkpoint: Path) -> bool:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(retention, "is_pinned", refuse)
    trained = train({**values, "max_epochs": 3, "keep_last": 2})
    assert len(trained.of(CheckpointSaved)) == 3
    assert trained.ended.phase == "done"
    assert any("Older checkpoints could not be removed" in event.text for event in trained.of(Warned))


def test_nothing_is_removed_for_a_checkpoint_that_reads_back_damaged(
    values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ed2.checkpoint import saver

    monkeypatch.setattr(saver, "find_damage", lambda path, **given: Damage("unet/x has changed since it was written"))
    trained = train({**values, "save_every_n_epochs": 1, "max_epochs": 2, "keep_last": 2})
    assert not trained.of(CheckpointSaved)
    assert any("reads back damaged" in event.text for event in trained.of(Warned))
    assert trained.ended.phase == "failed"


def test_the_best_checkpoint_is_known_from_the_validation(values: Values) -> None:
    trained = train({**values, "save_every_n_epochs": 1, "val_split_mode": "automatic", "auto_split_proportion": 0.25})
    (first, last) = trained.of(CheckpointSaved)
    measured = [json.loads((e.path / "manifest.json").read_text())["validation"] for e in (first, last)]
    assert [m["step"] for m in measured] == [first.step, last.step]
    assert all(0 < m["loss"] < 10 for m in measured)
    assert KEEP_FILE == "KEEP", "documented"
