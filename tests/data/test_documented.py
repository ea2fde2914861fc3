"""The examples that EveryDream 2's own documents give, on folders and captions, and what they come to here.

Its pages DATA, BALANCING and SHUFFLING_TAGS; where this program differs on purpose docs/from-everydream2.md says so.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ed2.data.epoch import EpochPlanner
from ed2.data.example import Example
from ed2.data.folder import ScanOptions, scan
from ed2.draws import rng

Painter = Callable[..., Path]
OPTIONS = ScanOptions(resolution=64)


def examples(count: int, folder: str, multiply: float) -> list[Example]:
    shape = (64, 64)
    return [Example(Path(f"{n}"), 0, f"{folder}/{n}.png", "", shape, shape, multiply=multiply) for n in range(count)]


def shown(made: list[Example], epoch: int) -> Counter[str]:
    """How often each image is shown in an epoch, by its name."""
    plan = EpochPlanner(made, seed=555, batch_size=4, grad_accum=1).plan(epoch)
    return Counter(made[visit.example].name for group in plan for batch in group for visit in batch.visits)


def per_folder(counts: Counter[str]) -> Counter[str]:
    folders = Counter[str]()
    for name, count in counts.items():
        folders[name.partition("/")[0]] += count
    return folders


def test_a_name_is_a_caption_up_to_the_underscore_and_a_text_file_of_that_name_another(
    paint: Painter, tmp_path: Path
) -> None:
    paint("john smith on a boat_999.jpg")
    paint("characters/00001.jpg", caption="cloud strife holding a buster sword, screenshot from final fantasy for ps5")
    found = scan([tmp_path / "images"], OPTIONS).examples
    assert [example.caption for example in found] == [
        "cloud strife holding a buster sword, screenshot from final fantasy for ps5",
        "john smith on a boat",
    ]


def test_multiply_txt_applies_to_its_folder_and_not_to_subfolders(paint: Painter, tmp_path: Path) -> None:
    for name in ("a.png", "b/b.png", "b/c/c.png"):
        paint(name)
    (tmp_path / "images/b/multiply.txt").write_text("2")
    found = scan([tmp_path / "images"], OPTIONS).examples
    assert {example.name: example.multiply for example in found} == {"a.png": 1, "b/b.png": 2, "b/c/c.png": 1}


def test_fifty_images_times_four_balance_two_hundred() -> None:
    made = examples(200, "a", 1) + examples(50, "b", 4)
    assert all(per_folder(shown(made, epoch)) == {"a": 200, "b": 200} for epoch in range(3))


def test_two_and_a_half_is_every_image_twice_and_half_of_them_once_more() -> None:
    for epoch in range(4):
        assert sorted(shown(examples(100, "a", 2.5), epoch).values()) == [2] * 50 + [3] * 50


@pytest.mark.parametrize(("multiply", "count"), [(0.05, 50), (0.1, 100)])
def test_a_thousand_regularisation_images_are_mixed_in_small_parts_with_two_hundred(
    multiply: float, count: int
) -> None:
    made = examples(200, "new", 1) + examples(1000, "preserve", multiply)
    epochs = [shown(made, epoch) for epoch in range(4)]
    assert all(per_folder(epoch) == {"new": 200, "preserve": count} for epoch in epochs)
    preserved = sum(epochs, Counter[str]()) - Counter({example.name: 4 for example in made[:200]})
    assert set(preserved.values()) == {1}  # and nothing comes again before all have come


@pytest.mark.parametrize(("multiply", "count"), [(1.2, 120), (0.8, 80)])
def test_a_fifth_more_or_less_is_that_in_every_epoch(multiply: float, count: int) -> None:
    assert all(shown(examples(100, "a", multiply), epoch).total() == count for epoch in range(5))


def test_shuffled_tags_follow_the_first_part_of_a_caption(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png", caption="a cat, red, wet, small")
    (only,) = scan([tmp_path / "images"], replace(OPTIONS, shuffle_tags=True)).examples
    drawn = {only.caption_at(lambda n=n: rng(1, "tags", n), 0) for n in range(60)}
    assert len(drawn) == 6 and all(text.startswith("a cat, ") for text in drawn)


YAML = """main_prompt: a portrait
tags:
  - tag: low angle shot
  - tag: looking to the side
  - tag: holding a sword
    weight: 1.5
  - tag: clouds in background
    weight: 0.5
  - tag: smiling
    weight: 0.8
max_caption_length: 64
"""


def test_heavier_tags_come_sooner_and_a_length_leaves_whole_tags_out(paint: Painter, tmp_path: Path) -> None:
    paint("cloud.png").with_suffix(".yaml").write_text(YAML)
    (only,) = scan([tmp_path / "images"], replace(OPTIONS, shuffle_tags=True)).examples
    drawn = [only.caption_at(lambda n=n: rng(1, "tags", n), 0) for n in range(2000)]
    tags = {"low angle shot", "looking to the side", "holding a sword", "clouds in background", "smiling"}
    parts = [text.split(", ") for text in drawn]
    assert all(first == "a portrait" and set(rest) < tags for first, *rest in parts)
    assert all(len(text) <= 64 for text in drawn)
    sooner = Counter(rest[0] for _, *rest in parts)
    chances = {"holding a sword": 1.5, "low angle shot": 1.0, "smiling": 0.8, "clouds in background": 0.5}
    assert all(abs(sooner[tag] / 2000 - weight / 4.8) < 0.04 for tag, weight in chances.items())
