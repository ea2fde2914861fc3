"""Images that are deleted or changed while a run reads them: told once, counted at the end, which is reached.

Where all of them are gone the run stops, and goes on to the same bytes when they are back.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ed2.app.images.scanning import MAX_REPORTED, ImageFaults
from ed2.app.run import run_training
from ed2.data.example import Finding
from ed2.data.images import check_image
from ed2.events import EpochEnded, Event, EventBus, PhaseChanged, StepDone, Warned
from ed2.training.controls import Controls
from tests.conftest import SIZES
from tests.hostile.painting import noise
from tests.runs import Trained, Values, differing
from tests.tiny import make_images

LEFT_OUT, CHANGED = "An image was left out.", "An image has changed."


def spoil(folder: Path) -> None:
    """Change seven of the eight images, each in another way."""
    names = [f"{number:02d}.png" for number in range(8)]
    deleted, garbage, larger, pipe, place, loop, tiny, _ = (folder / name for name in names)
    for path in (deleted, pipe, place, loop):
        path.unlink()
    garbage.write_bytes(b"garbage" * 100)
    noise((300, 40)).save(larger)
    os.mkfifo(pipe)
    place.mkdir()
    loop.symlink_to(loop)
    noise((1, 1)).save(tiny)


def values_of(folder: Path, sd1: Path, **own: object) -> Values:
    """Settings of a run in `folder`, on images that are made there."""
    images = make_images(folder / "images", SIZES)
    values: Values = {"data_root": [str(images)], "resume_ckpt": str(sd1), "resolution": 64, "max_epochs": 3}
    values |= {"batch_size": 2, "sample_prompts": str(folder / "none"), "logdir": str(folder / "logs")}
    return values | {"no_save_ckpt": True, "disable_textenc_training": True, "decode_threads": 2, **own}


def run(
    values: Values, is_due: Callable[[Event], bool] = lambda event: False, act: Callable[[Path], object] = spoil
) -> Trained:
    """Train, and do something to the folder of images at the first event that is due."""
    bus, events, done = EventBus(), list[Event](), list[bool]()

    def watch(event: Event) -> None:
        events.append(event)
        if not done and is_due(event):
            done.append(True)
            act(Path(values["data_root"][0]))  # type: ignore[index]

    bus.subscribe(watch)
    return Trained(run_training(values, None, bus=bus, controls=Controls()), events)


def told(trained: Trained, heading: str = LEFT_OUT) -> list[str]:
    return sorted(warned.text for warned in trained.of(Warned) if heading in warned.text)


def test_each_is_reported_once_and_the_bytes_do_not_depend_on_the_threads(tmp_path: Path, sd1: Path) -> None:
    def before_the_first_step(event: Event) -> bool:
        return isinstance(event, PhaseChanged) and event.phase == "training"

    runs = [
        run(values_of(tmp_path / f"run{threads}", sd1, decode_threads=threads), before_the_first_step)
        for threads in (1, 3)
    ]
    for trained in runs:
        assert trained.ended.phase == "done"
        words = ["no longer exists", "text, not an image", "not a file", "folder", "points to itself"]
        assert all(word in text for word, text in zip(words, told(trained), strict=True)), told(trained)
        assert [text.split(": ")[0] for text in told(trained, CHANGED)] == [f"{CHANGED} 02.png", f"{CHANGED} 06.png"]
        assert (trained.ended.left_out, trained.ended.changed) == (5, 2)
        log = (trained.run_dir / "run.log").read_text()
        assert "5 images could not be read and were left out. 2 images were changed during the run." in log
    assert differing(runs[0].checkpoint, runs[1].checkpoint) == []


def test_a_change_between_epochs_does_not_end_the_run(tmp_path: Path, sd1: Path) -> None:
    trained = run(values_of(tmp_path, sd1), lambda event: isinstance(event, EpochEnded))
    assert trained.ended.phase == "done"
    assert len(told(trained)) == 5


def test_a_pulled_drive_stops_the_run_which_resumes_to_the_same_bytes_when_it_is_back(
    tmp_path: Path, sd1: Path
) -> None:
    values = values_of(tmp_path, sd1, max_epochs=2)
    whole = run(values)
    images, away = tmp_path / "images", tmp_path / "away"
    pulled = run(values, lambda event: isinstance(event, StepDone) and event.step == 3, lambda it: it.rename(away))
    assert pulled.ended.phase == "failed" and 3 <= pulled.ended.step < whole.ended.step
    assert f"None of the 8 images in {images} can be read any more" in pulled.ended.reason
    assert "Was the drive disconnected" in pulled.ended.reason and 1 <= len(told(pulled)) <= 2
    away.rename(images)
    again = run({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    assert again.run_dir == pulled.run_dir and again.ended.phase == "done"
    assert differing(whole.checkpoint, again.checkpoint) == []


def test_many_lost_images_are_all_counted_and_logged_but_only_a_few_reported_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, texts = EventBus(), list[str]()
    bus.subscribe(lambda event: texts.append(event.text) if isinstance(event, Warned) else None)
    faults = ImageFaults(bus)
    with caplog.at_level(logging.INFO, logger="ed2"):
        for number in [*range(MAX_REPORTED + 5), 3]:  # one of them twice, as at another validation
            faults(Finding(f"{number}.png", "the file is gone.", file=Path(f"{number}.png")))
    assert faults.count["unusable"] == MAX_REPORTED + 5
    assert len(texts) == MAX_REPORTED + 1 and "run.log" in texts[-1]
    assert len(caplog.messages) == 5


@contextmanager
def without_rights() -> Iterator[None]:
    """Be a user whom rights bind."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_image_that_loses_its_permissions_is_reported(tmp_path: Path) -> None:
    noise().save(tmp_path / "cat.png")
    (tmp_path / "cat.png").chmod(0)
    check_image(tmp_path / "cat.png")  # what it needs is loaded while that is allowed
    with without_rights():
        facts = check_image(tmp_path / "cat.png")
    assert facts.problem and "permission denied" in facts.problem.what and not facts.lasting
