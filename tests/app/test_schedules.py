"""Runs whose epochs differ in length, the schedule as a file, and captions that are too long."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ed2.app.images.captions import long_captions
from ed2.data.example import Example
from ed2.events import EpochEnded, RunStarted, StepDone
from tests.runs import Values, differing, train


@pytest.fixture
def values(values: Values, tmp_path: Path) -> Values:
    from tests.tiny import make_images

    folder = make_images(tmp_path / "images", [(64, 64)] * 4)
    (folder / "multiply.txt").write_text("0.5")
    (folder / "01.yaml").write_text("multiply: 1.5\nbatch_id: together\n")
    (folder / "02.yaml").write_text("batch_id: together\ntags: [one, two, three]\nshuffle_tags: true")
    (folder / "03.txt").write_text("word " * 90)
    own = {
        "data_root": [str(folder)],
        "batch_size": 1,
        "max_epochs": 4,
        "lr_scheduler": "cosine",
        "write_schedule": True,
    }
    return {**values, **own, "no_save_ckpt": True}


def test_a_run_with_unequal_epochs_resumes_to_the_same_bytes_and_writes_its_schedule(values: Values) -> None:
    straight = train(values)
    steps = straight.ended.step
    assert steps == 12 == straight.of(RunStarted)[0].total_steps
    lines = [
        line.split("\t")
        for epoch in range(4)
        for line in (straight.run_dir / f"ep{epoch:02d}_batch_schedule.txt").read_text().splitlines()[1:]
    ]
    assert [int(line[0]) for line in lines] == list(range(1, 13))
    assert {line[2] for line in lines} == {"64x64"}
    shown = [line[4] for line in lines]
    assert [shown.count(f"0/0{n}.png") for n in range(4)] == [2, 6, 2, 2]
    ends = [event.step for event in straight.of(EpochEnded)]
    assert ends == [max(int(s) for s, *_ in part) for part in _by_epoch(straight.run_dir)]
    assert any(
        "1 caption has more than 75 tokens" in note and "03.png (" in note for note in straight.of(RunStarted)[0].notes
    )
    stopped = train(values, stop_at=5)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]})
    assert resumed.of(StepDone)[0].step == 6
    assert not differing(straight.checkpoint, resumed.checkpoint)


def _by_epoch(run_dir: Path) -> list[list[list[str]]]:
    files = sorted(run_dir.glob("ep*_batch_schedule.txt"))
    return [[line.split("\t") for line in file.read_text().splitlines()[1:]] for file in files]


def test_captions_over_the_limit_are_counted_and_the_longest_named() -> None:
    def example(name: str, words: int) -> Example:
        return Example(Path(name), 0, name, "word " * words, (64, 64), (64, 64))

    examples = [example("a", 75), example("b", 76), example("c", 3), example("d", 200), example("e", 80)]

    def count(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    long = long_captions([*examples, example("f", 77)], count, 75)
    assert [(e.name, n) for e, n in long.found] == [("b", 76), ("d", 200), ("e", 80), ("f", 77)]
    note = long.sentence()
    assert note.startswith("4 captions have more than 75 tokens") and "d (200), e (80), f (77), ..." in note
    assert [finding.path for finding in long.findings()] == ["b", "d", "e", "f"]
    assert long_captions([], count, 75).sentence() == ""
    many = long_captions([example(f"{n}", 90) for n in range(23)], count, 75).findings()
    assert len(many) == 21 and many[-1].what.startswith("3 more captions")
