"""Every sidecar in every folder of a tree, beside images that have each of theirs or none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ed2.data.example import Example
from ed2.data.folder import ScanOptions, scan

LEVELS = ("", "a/", "a/b/")
"""Folders that hold every file; a/b/c holds none."""

FILES = {
    "": {
        "global.yaml": "tags: [global yaml 0]",
        "global.yml": "tags: [global yml 0]\nmax_caption_length: 140",
        "local.yaml": "tags: [local yaml 0]",
        "local.yml": "tags: [local yml 0]",
        "multiply.txt": "2",
        "cond_dropout.txt": "0.1",
        "flip_p.txt": "0.2",
        "loss_scale.txt": "0.3",
        "batch_id.txt": "first",
        "shuffle_tags.txt": "",
    },
    "a/": {
        "global.yaml": "tags: [global yaml 1]",
        "global.yml": "tags: [global yml 1]\nloss_scale: 0.9",
        "local.yaml": "tags: [local yaml 1]\nshuffle_tags: false",
        "local.yml": "tags: [local yml 1]",
        "multiply.txt": "3",
        "cond_dropout.txt": "0.4",
        "flip_p.txt": "0.5",
        "loss_scale.txt": "0.6",
        "batch_id.txt": "second",
        "shuffle_tags.txt": "beaten by local.yaml",
    },
    "a/b/": {
        "global.yaml": "tags: [global yaml 2]\nflip_p: 0.8",
        "global.yml": "tags: [global yml 2]\nflip_p: 1",
        "local.yaml": "tags: [local yaml 2]",
        "local.yml": "tags: [local yml 2]\nmultiply: 5",
        "multiply.txt": "4",
        "cond_dropout.txt": "0",
        "flip_p.txt": "0",
        "loss_scale.txt": "0",
        "batch_id.txt": "third",
        "shuffle_tags.txt": "true",
    },
}
BESIDE = {
    "yaml": "tags: [{tag: from yaml}]\nmultiply: 7\n",
    "yml": "main_prompt: from yml\ntags: [of yml]\nmultiply: 8\nbatch_id: own\n",
    "caption": "from caption, of caption",
    "txt": "from txt, of txt",
}
"""Beside full.png in each folder; none.png has nothing."""

GLOBAL_0 = "global yaml 0, global yml 0"
GLOBAL_1 = f"global yaml 1, global yml 1, {GLOBAL_0}"
GLOBAL_2 = f"global yaml 2, global yml 2, {GLOBAL_1}"
UP_TO_140 = "global yaml 2, global yml 2, global yaml 1, global yml 1"
FULL = "from yml, from yaml, of yml, of caption, of txt"
EXPECTED = {
    # caption, multiply, cond_dropout, flip_p, loss_scale, batch_id, whether tags are shuffled
    "none.png": (f"none, local yaml 0, local yml 0, {GLOBAL_0}", 2, 0.1, 0.2, 0.3, "first", True),
    "full.png": (f"{FULL}, local yaml 0, local yml 0, {GLOBAL_0}", 7, 0.1, 0.2, 0.3, "own", True),
    "a/none.png": (f"none, local yaml 1, local yml 1, {GLOBAL_1}", 3, 0.4, 0.5, 0.6, "second", False),
    "a/full.png": (f"{FULL}, local yaml 1, local yml 1, {GLOBAL_1}", 7, 0.4, 0.5, 0.6, "own", False),
    "a/b/none.png": (f"none, local yaml 2, local yml 2, {GLOBAL_2}", 5, 0, 0, 0, "third", True),
    # the 140 characters that the topmost global.yml allows end before the topmost tags
    "a/b/full.png": (f"{FULL}, local yaml 2, local yml 2, {UP_TO_140}", 7, 0, 0, 0, "own", True),
    "a/b/c/none.png": (f"none, {GLOBAL_2}", 1, 0.25, 0.8, 0.9, "", False),
    "a/b/c/full.png": (f"{FULL}, {GLOBAL_2}", 7, 0.25, 0.8, 0.9, "own", False),
}


@pytest.fixture
def found(paint: Callable[..., Path], tmp_path: Path) -> dict[str, Example]:
    """The examples of the tree, by name; the settings say 0.25 and 0.75, and no shuffling."""
    for name in EXPECTED:
        image = paint(name)
        if image.stem == "full":
            for extension, text in BESIDE.items():
                image.with_suffix(f".{extension}").write_text(text)
    for level in LEVELS:
        for name, text in FILES[level].items():
            (tmp_path / "images" / level / name).write_text(text)
    dataset = scan([tmp_path / "images"], ScanOptions(resolution=64, cond_dropout=0.25, flip_p=0.75))
    return {example.name: example for example in dataset.examples}


def test_every_file_at_every_level_applies_exactly_where_it_should(found: dict[str, Example]) -> None:
    assert {
        name: (e.caption, e.multiply, e.cond_dropout, e.flip_p, e.loss_scale, e.batch_id, e.shuffle is not None)
        for name, e in found.items()
    } == EXPECTED


def test_every_known_sidecar_is_in_the_tree() -> None:
    from ed2.data.sidecars import CAPTION_EXTENSIONS, FOLDER_NAMES

    assert all(set(FILES[level]) == FOLDER_NAMES for level in LEVELS)
    assert set(BESIDE) == set(CAPTION_EXTENSIONS)
