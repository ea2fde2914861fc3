"""What is done with a checkpoint after a run: its single file, and an image of a prompt."""

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from ed2.app.checkpoint_use import draw_prompt, export_single_file
from ed2.app.page.checkpoint_work import CheckpointWork
from ed2.errors import RefusedError
from tests.runs import Values, raw, train


def silent(text: str) -> None:
    """Tell nobody."""


@pytest.fixture(params=["full", "lora"])
def checkpoint(request: pytest.FixtureRequest, values: Values) -> Path:
    return train({**values, "method": request.param, "max_epochs": 1}).checkpoint


def test_a_lost_single_file_is_written_again_with_the_same_numbers(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "files" / f"{checkpoint.name}.safetensors"
    before = load_file(own)
    assert export_single_file(checkpoint, silent) == own, "it is there already"
    own.unlink()
    again = load_file(export_single_file(checkpoint, silent))
    assert before.keys() == again.keys()
    assert all(raw(before[name]) == raw(again[name]) for name in before)


def test_an_image_of_a_prompt_depends_on_the_seed_alone_and_is_kept(checkpoint: Path) -> None:
    told: list[str] = []
    first, same = (draw_prompt(checkpoint, "a cat", 1, 4.0, told.append) for _ in range(2))
    other = draw_prompt(checkpoint, "a cat", 2, 4.0, silent)
    assert first != same and first.parent == checkpoint.parent.parent / "tries"
    pixels = [Image.open(path).tobytes() for path in (first, same, other)]
    assert pixels[0] == pixels[1] != pixels[2]
    assert any("Drawing: step" in text for text in told)


def test_work_is_refused_during_a_run_and_ends_when_one_starts(values: Values) -> None:
    checkpoint = train({**values, "max_epochs": 1}).checkpoint
    is_training = [True]
    work = CheckpointWork(lambda: is_training[0], lambda: None)
    with pytest.raises(RefusedError, match="a run is in progress"):
        work.export(checkpoint)
    is_training[0] = False
    work.draw(checkpoint, "a cat", 1, 4.0)
    with pytest.raises(RefusedError, match="in progress"):
        work.export(checkpoint)
    is_training[0] = True
    work.close()
    assert work.shown.state == "failed" and "Nothing was written" in work.shown.text
    assert not (checkpoint.parent.parent / "tries").exists()
    is_training[0] = False
    work.export(checkpoint.with_name("gone"))
    work.close()
    assert work.shown.state == "failed"
