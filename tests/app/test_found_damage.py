"""Images whose damage shows only when they are decoded: found while a run trains, whatever the index knows by then."""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ed2.app.images import scanning
from ed2.app.images.scanning import scan_dataset
from ed2.checkpoint.identity import MANIFEST, STATE_FILE, TRAINING_STATE, oldest_first, state_of
from ed2.checkpoint.resume import LEFT_OUT
from ed2.data.images import check_image
from ed2.events import Event, RunStarted, StepDone, ValidationDone
from ed2.settings.files import with_defaults
from ed2.training.state import TrainState
from tests.checkpoint.crashing import in_child
from tests.runs import Trained, Values, differing, said, train
from tests.tiny import make_images

CUT, EMPTY = "05.png", "06.png"
"""Images with a sound header: one ends early, and one is transparent throughout."""
STEPS = 5
"""In the first epoch, with both of them in its plan."""


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of its own, so that no other test has read these images."""
    path = tmp_path / "user" / "index.json"
    monkeypatch.setattr(scanning, "INDEX_FILE", path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, two of them damaged; the transparent one is shown twice in an epoch."""
    folder = make_images(tmp_path / "photos", [(64, 64)] * 8)
    cut = folder / CUT
    cut.write_bytes(cut.read_bytes()[:6000])
    Image.new("RGBA", (64, 64), (200, 10, 10, 0)).save(folder / EMPTY)
    (folder / "06.yaml").write_text("main_prompt: nothing\nmultiply: 2\n", encoding="utf-8")
    (folder / "06.txt").unlink()
    return folder


@pytest.fixture
def values(values: Values, folder: Path) -> Values:
    """Three epochs, with a checkpoint after each step of which the save before is done."""
    own: Values = {"data_root": [str(folder)], "max_epochs": 3, "ckpt_every_n_minutes": 1e-6, "lr_scheduler": "linear"}
    return {**values, **own, "no_save_ckpt": True, "log_step": 1}


def known_to(index: Path) -> set[str]:
    """The images that the index knows."""
    return set(json.loads(index.read_text())["entries"])


def forget(index: Path) -> None:
    """As if the user's folder was deleted."""
    shutil.rmtree(index.parent, ignore_errors=True)


def killed(values: Values, at_step: int) -> Path:
    """Train in a child that is killed with -9 after a step; returns the first checkpoint left, made the newest."""

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: train(values, observer=die)) == -signal.SIGKILL
    (run,) = Path(str(values["logdir"])).glob(f"{values['project_name']}_*")
    first, *later = oldest_first(file.parents[1] for file in run.glob(f"ckpts/[!.]*/{TRAINING_STATE}/{STATE_FILE}"))
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    return first


def lost_of(checkpoint: Path) -> dict[str, int]:
    return TrainState.from_dict(state_of(checkpoint)["state"]).lost


def test_damage_is_told_once_and_leaves_the_next_epoch_and_the_next_run(values: Values, index: Path) -> None:
    trained = train(values)
    assert trained.of(RunStarted)[0].images == 8 and trained.ended.left_out == 2
    told = said(trained)
    for name, what in ((CUT, "cut"), (EMPTY, "transparent throughout")):
        assert sum(name in line and what in line for line in told.splitlines()) == 1
    assert "8 images are new or changed, and not yet read in full" in told
    assert lost_of(trained.checkpoint) == {f"0/{CUT}": 0, f"0/{EMPTY}": 0}
    images = [event.images for event in trained.of(StepDone)]
    assert sum(images[:STEPS]) == 6 and images[STEPS:] == [2, 2, 2] * 2
    assert len(known_to(index)) == 8
    again = train({**values, "project_name": "again"})
    assert again.of(RunStarted)[0].images == 6 and again.ended.left_out == 0 and again.ended.step == 9
    assert f"Left out: {CUT}: " in said(again) and "Only the header" not in said(again)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("known", ["not", "by a check", "by a check of a half", "forgotten"])
def test_a_killed_run_resumes_to_the_same_bytes_whatever_the_index_knows_by_then(
    values: Values, index: Path, folder: Path, known: str
) -> None:
    whole = train(values)
    forget(index)
    values |= {"project_name": "killed"}
    begun = killed(values, at_step=STEPS - 1)
    assert len(lost_of(begun)) < 2
    if "check" in known:
        checked = scan_dataset(with_defaults(values))
        assert len(checked.problems) == 2
    if known.endswith("half"):
        entries = json.loads(index.read_text())
        del entries["entries"][str(folder / CUT)]
        index.write_text(json.dumps(entries))
    if known == "forgotten":
        forget(index)
    resumed = train({**values, "resume_ckpt": str(begun)})
    assert resumed.run_dir == begun.parents[1]
    assert "bit-identical" not in said(resumed)
    assert not differing(whole.checkpoint, resumed.checkpoint)
    assert lost_of(resumed.checkpoint) == lost_of(whole.checkpoint)


def test_what_a_run_left_out_at_its_start_stays_out_with_another_index(values: Values, index: Path) -> None:
    scan_dataset(with_defaults(values))
    whole = train(values)
    assert whole.of(RunStarted)[0].images == 6
    stopped = train({**values, "project_name": "stopped"}, stop_at=4)
    assert state_of(stopped.checkpoint)[LEFT_OUT] == {"training": [f"0/{CUT}", f"0/{EMPTY}"]}
    forget(index)
    resumed = train({**values, "resume_ckpt": str(stopped.checkpoint), "project_name": "stopped"})
    assert resumed.run_dir == stopped.run_dir
    assert not differing(whole.checkpoint, resumed.checkpoint)


def test_an_older_checkpoint_of_a_run_goes_on_with_what_the_run_had_found(values: Values) -> None:
    whole = train({**values, "save_every_n_epochs": 1, "ckpt_every_n_minutes": 0.0})
    (older,) = [path for path in whole.run_dir.glob("ckpts/[!.]*") if "ep00" in path.name]
    assert len(lost_of(older)) == 2
    resumed = train({**values, "resume_ckpt": str(older)})
    assert resumed.run_dir != whole.run_dir and "found damaged earlier in this run" in said(resumed)
    assert not differing(whole.checkpoint, resumed.checkpoint)


def touched(folder: Path) -> None:
    for image in folder.glob("*.png"):
        os.utime(image, ns=(1, 10**18))


def replaced(folder: Path) -> None:
    image = folder / "01.png"
    status, content = image.stat(), (folder / "02.png").read_bytes()
    image.write_bytes(content[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("change", "is_same"), [(touched, True), (replaced, False)])
def test_a_replaced_file_of_the_same_size_and_time_is_noticed_and_a_touched_one_is_no_change(
    values: Values, folder: Path, change: Callable[[Path], None], is_same: bool
) -> None:
    stopped = train(values, stop_at=3)
    change(folder)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]}, stop_at=4)
    assert (resumed.run_dir == stopped.run_dir) == is_same
    assert ("images or captions were changed" in said(resumed)) != is_same


def test_a_moved_dataset_resumes_to_the_same_bytes(values: Values, folder: Path, index: Path) -> None:
    whole = train(values)
    forget(index)
    stopped = train({**values, "project_name": "stopped"}, stop_at=3)
    moved = shutil.move(folder, folder.with_name("elsewhere"))
    touched(moved)
    resumed = train(
        {**values, "resume_ckpt": str(stopped.checkpoint), "project_name": "stopped", "data_root": [str(moved)]}
    )
    assert resumed.run_dir == stopped.run_dir and not differing(whole.checkpoint, resumed.checkpoint)


def test_a_run_begun_by_an_earlier_version_resumes_to_the_same_bytes(values: Values, index: Path) -> None:
    """Its fingerprint holds the hash of each image, and it left damaged ones out from its start."""
    before = scan_dataset(with_defaults(values)).fingerprint
    whole = train(values)
    stopped = train({**values, "project_name": "stopped"}, stop_at=3)
    as_written_before(stopped, before)
    forget(index)
    resumed = train({**values, "resume_ckpt": str(stopped.checkpoint), "project_name": "stopped"}, stop_at=5)
    assert resumed.run_dir == stopped.run_dir and "bit-identical" not in said(resumed)
    assert state_of(resumed.checkpoint)["fingerprint"] == before and LEFT_OUT not in state_of(resumed.checkpoint)
    ended = train({"resume_ckpt": str(resumed.checkpoint), "logdir": values["logdir"]})
    assert ended.run_dir == stopped.run_dir and not differing(whole.checkpoint, ended.checkpoint)


def as_written_before(trained: Trained, fingerprint: str) -> None:
    """Make a checkpoint one of an earlier version."""
    path, name = trained.checkpoint, f"{TRAINING_STATE}/{STATE_FILE}"
    state = {**state_of(path), "fingerprint": fingerprint}
    del state[LEFT_OUT]
    content = json.dumps(state).encode()
    (path / name).write_bytes(content)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_no_image_is_decoded_before_the_first_step(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr("ed2.data.reading.check_image", lambda path: checked.append(path.name) or check_image(path))
    train({**values, "val_split_mode": "manual", "manual_data_root": values["data_root"][0]}, stop_at=1)  # type: ignore[index]
    assert not checked


def test_a_damaged_validation_image_is_told_once_and_left_out_alike_after_a_resume(
    values: Values, folder: Path, tmp_path: Path, index: Path
) -> None:
    sound = make_images(tmp_path / "sound", [(64, 64)] * 6, seed=1)
    values |= {"data_root": [str(sound)], "val_split_mode": "manual", "manual_data_root": str(folder)}
    whole = train(values)
    told = said(whole)
    assert sum(CUT in line for line in told.splitlines()) == sum(EMPTY in line for line in told.splitlines()) == 1
    assert whole.ended.left_out == 2 and lost_of(whole.checkpoint) == {}
    assert len(known_to(index)) == 14
    forget(index)
    stopped = train({**values, "project_name": "stopped"}, stop_at=4)
    scan_dataset(with_defaults(values).replaced(data_root=(str(folder),)))
    resumed = train({**values, "resume_ckpt": str(stopped.checkpoint), "project_name": "stopped"})
    losses = [event.values for event in whole.of(ValidationDone) if event.step > 4]
    assert losses and losses == [event.values for event in resumed.of(ValidationDone)]
    assert not differing(whole.checkpoint, resumed.checkpoint)


def test_copies_are_told_once_their_content_is_known(values: Values, folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    first = train(values, stop_at=6)
    assert "The same image more than once" not in said(first)
    assert "The same image more than once" in said(train({**values, "project_name": "again"}, stop_at=1))
