"""Pictures that are deleted or changed while a run reads them: left out, told once, and the run comes to its end."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ed2.app.runner import run_training
from ed2.app.start import choose_start
from ed2.data.images import check_image
from ed2.events import EpochEnded, Event, EventBus, PhaseChanged, Warned
from ed2.training.controls import Controls
from tests.conftest import SIZES
from tests.hostile.painting import noise
from tests.runs import Trained, Values, differing
from tests.tiny import make_pictures

LEFT_OUT = "A picture was left out."


def spoil(folder: Path) -> None:
    """Change seven of the eight pictures, each in another way."""
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


def run(tmp_path: Path, sd1: Path, name: str, is_due: Callable[[Event], bool], threads: int) -> Trained:
    """Train on pictures of which seven are changed at the first event that is due."""
    pictures = make_pictures(tmp_path / name / "pictures", SIZES)
    values: Values = {"data_root": [str(pictures)], "resume_ckpt": str(sd1), "resolution": 64, "max_epochs": 3}
    values |= {"batch_size": 2, "sample_prompts": str(tmp_path / "none"), "logdir": str(tmp_path / name / "logs")}
    values |= {"no_save_ckpt": True, "disable_textenc_training": True, "decode_threads": threads}
    start, bus, events, done = choose_start(values, None), EventBus(), list[Event](), list[bool]()

    def watch(event: Event) -> None:
        events.append(event)
        if not done and is_due(event):
            done.append(True)
            spoil(pictures)

    bus.subscribe(watch)
    return Trained(start, run_training(start, bus=bus, controls=Controls()), events)


def left_out(trained: Trained) -> list[str]:
    return sorted(warned.text for warned in trained.of(Warned) if LEFT_OUT in warned.text)


def test_each_is_told_once_and_the_bytes_do_not_depend_on_the_threads(tmp_path: Path, sd1: Path) -> None:
    def before_the_first_step(event: Event) -> bool:
        return isinstance(event, PhaseChanged) and event.phase == "training"

    runs = [run(tmp_path, sd1, f"run{threads}", before_the_first_step, threads) for threads in (1, 3)]
    for trained in runs:
        assert trained.ended.phase == "done"
        words = ["gone", "text, not a picture", "not a file", "folder", "leads back to itself"]
        told = left_out(trained)
        assert len(told) == len(words)
        assert all(word in text for word, text in zip(words, told, strict=True)), told
    assert differing(runs[0].checkpoint, runs[1].checkpoint) == []


def test_a_change_between_epochs_does_not_end_the_run(tmp_path: Path, sd1: Path) -> None:
    trained = run(tmp_path, sd1, "run", lambda event: isinstance(event, EpochEnded), 2)
    assert trained.ended.phase == "done"
    assert len(left_out(trained)) == 5


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


def test_a_picture_that_may_no_longer_be_read_is_told(tmp_path: Path) -> None:
    noise().save(tmp_path / "cat.png")
    (tmp_path / "cat.png").chmod(0)
    check_image(tmp_path / "cat.png")  # what it needs is loaded while that is allowed
    with without_rights():
        facts = check_image(tmp_path / "cat.png")
    assert facts.problem and "permission denied" in facts.problem.what and not facts.lasting
