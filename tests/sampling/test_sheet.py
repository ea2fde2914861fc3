import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.sampling.prompt import Prompt
from ed2.sampling.sheet import MAX_ROWS, MAX_WIDTH, MIN_WIDTH, PALE, contact_sheet, evenly_chosen
from tests.past_runs import write_sample

TEXTS = ["a zorg on a cyan background", "a very long prompt " * 20, "x" * 80]


def fake_run(run_dir: Path, steps: list[int], *, size: tuple[int, int] = (64, 64), texts: list[str] = TEXTS) -> Path:
    for step in steps:
        for index, text in enumerate(texts):
            tiles = [Image.new("RGB", size, (index * 12 % 256, step % 256, shade)) for shade in (10, 100, 200)]
            write_sample(run_dir, step=step, prompt=Prompt(index, text, 5, size), tiles=tiles)
    return run_dir


def pixels(path: Path | None) -> np.ndarray:
    assert path is not None
    with Image.open(path) as sheet:
        return np.asarray(sheet.convert("RGB"))


def has(sheet: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((sheet == colour).all(axis=2).any())


def test_no_samples_give_no_sheet(tmp_path: Path) -> None:
    assert contact_sheet(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_first_and_last_step_are_shown_at_the_middle_cfg(tmp_path: Path) -> None:
    sheet = pixels(contact_sheet(fake_run(tmp_path, [0, 25, 50, 75, 100, 125, 150, 175, 200])))
    assert sheet.shape[1] <= MAX_WIDTH
    for row in range(len(TEXTS)):
        assert has(sheet, (row * 12, 0, 100))
        assert has(sheet, (row * 12, 200, 100))
    assert not has(sheet, (0, 0, 10))
    assert not has(sheet, (0, 0, 200))


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (768, 320), (256, 1024)])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_width_is_bounded_for_every_shape(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    sheet = pixels(contact_sheet(fake_run(tmp_path, list(range(count)), size=size, texts=["a cat"])))
    assert MIN_WIDTH <= sheet.shape[1] <= MAX_WIDTH
    assert sheet.shape[0] < 1200


def test_tiny_tiles_are_enlarged(tmp_path: Path) -> None:
    sheet = pixels(contact_sheet(fake_run(tmp_path, [0, 200], texts=["a cat"])))
    shown = (sheet == (0, 200, 100)).all(axis=2).sum()
    assert shown == 192 * 192


def test_damaged_missing_and_foreign_images_leave_a_pale_field(tmp_path: Path) -> None:
    run_dir = fake_run(tmp_path / "run", [0, 100, 200], texts=["a cat", "a dog"])
    (run_dir / "samples/gs00100/00-cfg4.png").write_bytes(b"no image")
    (run_dir / "samples/gs00200/01-cfg4.png").unlink()
    Image.new("RGB", (300, 300), (1, 2, 3)).save(tmp_path / "foreign.png")
    foreign = {
        "step": 200,
        "index": 0,
        "prompt": "a cat",
        "path": "../foreign.png",
        "cfgs": [1.0],
    }
    with (run_dir / "samples.jsonl").open("a") as file:
        file.write(json.dumps(foreign) + "\n")
    sheet = pixels(contact_sheet(run_dir))
    assert (sheet == PALE).all(axis=2).sum() >= 3 * 192 * 192
    assert not has(sheet, (1, 2, 3))


def test_a_changed_prompt_starts_a_new_row(tmp_path: Path) -> None:
    fake_run(tmp_path, [0, 100], texts=["a cat"])
    before = pixels(contact_sheet(tmp_path)).shape[0]
    fake_run(tmp_path, [200], texts=["a dog"])
    assert pixels(contact_sheet(tmp_path)).shape[0] > before + 150


def test_many_prompts_are_bounded(tmp_path: Path) -> None:
    few, many = ([f"prompt {n}" for n in range(count)] for count in (MAX_ROWS, MAX_ROWS + 5))
    heights = [
        pixels(contact_sheet(fake_run(tmp_path / str(len(texts)), [0], size=(16, 16), texts=texts))).shape[0]
        for texts in (few, many)
    ]
    assert heights[0] == heights[1]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (list(range(0, 1001, 10)), [0, 200, 400, 600, 800, 1000]),
        ([0, 1, 2], [0, 1, 2]),
        ([0, 1, 2, 3, 4, 5, 6, 1000], [0, 3, 4, 5, 6, 1000]),
        ([0, 994, 995, 996, 997, 998, 999, 1000], [0, 994, 995, 996, 997, 1000]),
        ([], []),
    ],
)
def test_steps_are_chosen_evenly_with_first_and_last(steps: list[int], expected: list[int]) -> None:
    chosen = evenly_chosen(steps, 6)
    assert len(chosen) == len(set(chosen)) == min(6, len(steps))
    assert (chosen[:1], chosen[-1:]) == (steps[:1], steps[-1:])
    assert chosen[0:1] + chosen[-1:] == expected[0:1] + expected[-1:]
    if len(steps) > 50:
        assert chosen == expected
