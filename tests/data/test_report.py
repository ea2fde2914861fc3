import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ed2.data.buckets import RESOLUTIONS
from ed2.data.example import Dataset
from ed2.data.folder import ScanOptions, scan
from ed2.data.report import ReportOptions, as_json, as_text, resolution_table
from scripts.buckets_page import loss_table

PLAN = ReportOptions(seed=1, batch_size=2, grad_accum=2, max_epochs=3)


@pytest.fixture
def dataset(paint: Callable[..., Path], tmp_path: Path) -> Dataset:
    for number in range(5):
        paint(f"square {number}.png", caption="a square")
    paint("wide_1.png", size=(90, 48))
    paint("small.png", size=(32, 32), caption="small")
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    return scan([tmp_path / "images"], ScanOptions(resolution=64))


def test_the_json_matches_the_contract(dataset: Dataset) -> None:
    told = json.loads(json.dumps(as_json(dataset, PLAN)))
    assert told["images"][-1] == {
        "path": "wide_1.png",
        "root": 0,
        "caption": "wide",
        "size": [90, 48],
        "bucket": [80, 48],
        "crop": [5, 0, 85, 48],
        "multiply": 1.0,
        "problems": [],
    }
    assert told["buckets"] == [
        {"size": [64, 64], "images": 6, "short": 0},
        {"size": [80, 48], "images": 1, "short": 1},
    ]
    assert (told["steps_per_epoch"], told["total_steps"]) == (2, 6)
    assert told["problems"] == [
        {"path": "bad.png", "what": "the file is empty.", "fix": "Replace it with a good copy, or delete it."}
    ]


def test_problems_of_a_used_image_are_listed_with_it(dataset: Dataset) -> None:
    told = as_json(dataset, PLAN)["images"]
    assert isinstance(told, list)
    (small,) = (image for image in told if image["path"] == "small.png")
    assert len(small["problems"]) == 1 and "enlarged" in small["problems"][0]


def test_a_note_about_one_root_is_not_attributed_to_the_same_name_in_another(
    paint: Callable[..., Path], tmp_path: Path
) -> None:
    paint("one/cat.png", caption="a cat")
    paint("two/cat.png", size=(30, 30), caption="a cat")
    dataset = scan([tmp_path / "images/one", tmp_path / "images/two"], ScanOptions(resolution=64))
    images = as_json(dataset, PLAN)["images"]
    assert isinstance(images, list)
    assert [len(image["problems"]) for image in images] == [0, 1]
    assert "two/cat.png" in as_text(dataset, PLAN)


def test_the_text_counts_and_names_what_matters(dataset: Dataset) -> None:
    text = as_text(dataset, PLAN)
    assert "7 images can be used, 1 file cannot." in text
    assert "2 steps per epoch (batch size 2 x 2 batches per step), 6 steps in 3 epochs." in text
    assert "bad.png: the file is empty. Replace it" in text
    assert "Enlarged, since smaller than the bucket (1): small.png." in text
    assert "Caption taken from the file name (1): wide_1.png." in text
    assert "\x1b" not in text and all(len(line) <= 120 for line in text.splitlines())


def test_many_problems_are_counted_not_listed(paint: Callable[..., Path], tmp_path: Path) -> None:
    paint("good.png")
    for number in range(30):
        (tmp_path / "images" / f"bad {number:02}.png").write_bytes(b"")
    text = as_text(scan([tmp_path / "images"], ScanOptions(resolution=64)), PLAN)
    assert "bad 19.png" in text and "bad 20.png" not in text and "and 10 more" in text


def test_fractions_make_the_total_the_sum_of_the_epochs(dataset: Dataset) -> None:
    examples = tuple(replace(example, multiply=1.5) for example in dataset.examples)
    planner = PLAN.planner(examples)
    assert PLAN.total_steps(planner) == sum(planner.steps(epoch) for epoch in range(3))
    assert "fractions" in as_text(replace(dataset, examples=examples), PLAN)


def test_the_table_of_resolutions_fits_100_columns_and_names_all_17() -> None:
    lines = resolution_table().splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert [int(line.split()[0]) for line in lines[1:] if line[:10].strip()] == list(RESOLUTIONS)
    assert "       256  256x256 320x192 512x128" in lines


def test_the_table_of_losses_has_a_row_for_each_resolution() -> None:
    assert len(loss_table().splitlines()) == 2 + len(RESOLUTIONS)
    assert "| 512 | 3.6% | 10.0% | 6.2% |" in loss_table()


def test_an_invalid_sidecar_is_reported_in_words_and_as_a_problem(paint: Callable[..., Path], tmp_path: Path) -> None:
    paint("cat.png", caption="a cat")
    (tmp_path / "images" / "multiply.txt").write_text("many")
    dataset = scan([tmp_path / "images"], ScanOptions(resolution=64))
    what = "multiply is 'many'; it must be a number from 0 to 10,000."
    assert f"multiply.txt: {what} Ignored until it is fixed." in as_text(dataset, PLAN)
    assert [(p["path"], p["what"]) for p in as_json(dataset, PLAN)["problems"]] == [("multiply.txt", what)]


def test_images_held_out_for_validation_are_listed_and_not_counted_in_steps(dataset: Dataset) -> None:
    plan = replace(PLAN, validation_keys=frozenset(example.key for example in dataset.examples[:-1]))
    told = as_json(dataset, plan)
    assert (len(told["images"]), told["total_steps"]) == (7, 3)
