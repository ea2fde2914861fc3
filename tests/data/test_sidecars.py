"""A tree with every sidecar at every level, and what it means, written by hand."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ed2.data.example import Dataset, Example
from ed2.data.folder import ScanOptions, scan
from ed2.errors import DatasetError

Painter = Callable[..., Path]

FILES = {
    "global.yaml": "tags: [everywhere]\nmultiply: 2\nshuffle_tags: true\nflip_p: 0.1\n",
    "global.yml": "multiply: 9\ncond_dropout: 0.9\n",
    "local.yaml": "tags: [top only]\n",
    "multiply.txt": "7",
    "plain.txt": "a plain cat, red",
    "people/global.yaml": "tags: [{tag: people, weight: 2}]\nloss_scale: 0.5\nshuffle_tags: false\n",
    "people/cond_dropout.txt": " 0.25\n",
    "people/flip_p.txt": "0.5",
    "people/loss_scale.txt": "0.75",
    "people/batch_id.txt": "faces\n",
    "people/multiply.txt": "0.5",
    "people/anna.txt": "from txt, from_txt",
    "people/anna.caption": "from caption",
    "people/anna.yml": "main_prompt: from yml\nloss_scale: 1.5\n",
    "people/anna.yaml": "caption:\n  main_prompt: [Anna]\n  tags:\n    - smiling\n    - {tag: blue, weight: 3}\n"
    "  multiply: 4\n  max_caption_length: 40\nbatch_id: anna\n",
    "people/berta_2.yaml": "",
    "people/deep/shuffle_tags.txt": "",
    "people/deep/local.yaml": "main_prompt: someone\nbatch_id: deep\nloss_scale: 0\n",
    "people/deep/batch_id.txt": "beaten",
    "people/deep/clara.txt": "",
    "people/deep/dora.txt": "Dora, tall",
}
EXPECTED = {
    # people's tag weighs 2 and so stands first; shuffling comes from global.yaml two folders up
    "people/anna.png": {
        "caption": "Anna, blue, people, smiling, from_txt",
        "multiply": 4.0,
        "cond_dropout": 0.25,
        "flip_p": 0.5,
        "batch_id": "anna",
        "loss_scale": 1.5,
        "shuffled": False,
    },
    "people/berta_2.png": {
        "caption": "berta, people, everywhere",
        "multiply": 0.5,
        "cond_dropout": 0.25,
        "flip_p": 0.5,
        "batch_id": "faces",
        "loss_scale": 0.75,
        "shuffled": False,
    },
    "people/deep/clara.png": {
        "caption": "someone, people, everywhere",
        "multiply": 2.0,
        "cond_dropout": 0.9,
        "flip_p": 0.1,
        "batch_id": "deep",
        "loss_scale": 0.0,
        "shuffled": True,
    },
    "people/deep/dora.png": {
        "caption": "Dora, people, tall, everywhere",
        "multiply": 2.0,
        "cond_dropout": 0.9,
        "flip_p": 0.1,
        "batch_id": "deep",
        "loss_scale": 0.0,
        "shuffled": True,
    },
    "plain.png": {
        "caption": "a plain cat, red, top only, everywhere",
        "multiply": 7.0,
        "cond_dropout": 0.9,
        "flip_p": 0.1,
        "batch_id": "",
        "loss_scale": 1.0,
        "shuffled": True,
    },
    "things/by name_1.png": {
        "caption": "by name, everywhere",
        "multiply": 2.0,
        "cond_dropout": 0.9,
        "flip_p": 0.1,
        "batch_id": "",
        "loss_scale": 1.0,
        "shuffled": True,
    },
}


def meaning(example: Example) -> dict[str, object]:
    names = ("caption", "multiply", "cond_dropout", "flip_p", "batch_id", "loss_scale")
    return {**{name: getattr(example, name) for name in names}, "shuffled": example.shuffle is not None}


@pytest.fixture
def tree(paint: Painter, tmp_path: Path) -> Path:
    for name in EXPECTED:
        paint(name)
    root = tmp_path / "images"
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    return root


def read(*roots: Path, **options: object) -> Dataset:
    return scan(roots, ScanOptions(**{"resolution": 64, "flip_p": 0.3, "cond_dropout": 0.3, **options}))


def test_every_sidecar_at_every_level_means_what_the_docs_say(tree: Path) -> None:
    dataset = read(tree)
    assert {example.name: meaning(example) for example in dataset.examples} == EXPECTED
    assert dataset.problems == ()
    assert [(note.path, note.kind) for note in dataset.notes] == [
        ("people/anna.png", "several"),
        ("people/berta_2.png", "file name"),
        ("things/by name_1.png", "file name"),
    ]


def test_the_settings_apply_unless_a_file_says_otherwise(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png", caption="a cat, red")
    (only,) = read(tmp_path / "images", shuffle_tags=True).examples
    assert (only.flip_p, only.cond_dropout, only.multiply) == (0.3, 0.3, 1.0)
    assert only.shuffle is not None


def test_sidecars_in_other_encodings_are_read(paint: Painter, tmp_path: Path) -> None:
    paint("a.png").with_suffix(".yaml").write_bytes("main_prompt: eine Kätzin\n".encode("utf-16"))
    paint("b.png").with_suffix(".yaml").write_bytes("tags: [café]".encode("latin-1"))
    (tmp_path / "images" / "multiply.txt").write_bytes("2".encode("utf-16"))
    dataset = read(tmp_path / "images")
    assert [(example.caption, example.multiply) for example in dataset.examples] == [("eine Kätzin", 2), ("b, café", 2)]
    assert [(note.path, note.kind) for note in dataset.notes] == [
        ("multiply.txt", "guessed"),
        ("a.png", "guessed"),
        ("b.png", "guessed"),
        ("b.png", "file name"),
    ]
    assert "Ignored" not in "".join(note.fix for note in dataset.notes)
    assert "multiply.txt is not UTF-8 and was read as UTF-16." in [note.what for note in dataset.notes]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("multiply.txt", "many", "multiply is 'many'; it must be a number from 0 to 10,000."),
        ("flip_p.txt", "", "it is empty."),
        ("local.yaml", "tags: [a", "it is not valid YAML (line "),
        ("global.yaml", "- a\n- b\n", "it contains no keys with values"),
        ("cat.yaml", "mutliply: 2", "mutliply is not a known name; did you mean multiply?"),
        ("cat.yaml", "!!python/object/apply:os.system [exit]", "it contains no keys with values"),
        ("cat.yaml", "x: &x [a]\ntags: [" + "*x," * 200 + "]", "has more than 100 YAML aliases"),
        ("cat.yaml", "a: &a [*a]", "it is not valid YAML"),
        ("cat.yaml", "[" * 5000, "it is not valid YAML"),
        ("cat.yaml", "tags: [" + "x" * 70_000 + "]", "it is larger than 64 KB"),
        ("local.yaml", "? [a, b]\n: c", "it is not valid YAML"),
    ],
)
def test_an_invalid_sidecar_is_named_and_does_no_harm(
    paint: Painter, tmp_path: Path, name: str, content: str, told: str
) -> None:
    paint("cat.png", caption="a cat")
    (tmp_path / "images" / name).write_text(content, encoding="utf-8")
    dataset = read(tmp_path / "images")
    (note,) = dataset.notes
    assert told in note.what, note.what
    (only,) = dataset.examples
    assert (only.caption, only.multiply, only.flip_p) == ("a cat", 1.0, 0.3)


def test_a_manifest_lists_images_in_its_order_and_one_may_come_twice(paint: Painter, tmp_path: Path) -> None:
    paint("one.png", caption="not read")
    paint("two.png").with_suffix(".caption").write_text("from a file, far")
    (tmp_path / "images" / "local.yaml").write_text("multiply: 5")
    entries = [
        {"image": "images/two.png", "caption": "images/two.caption", "multiply": 2},
        {"image": "images/one.png", "caption": "a cat, red", "tags": ["big"], "shuffle_tags": True},
        {"image": str(tmp_path / "images/one.png"), "main_prompt": "again", "caption": {"tags": ["x"]}},
        {"image": "images/one.png"},
        {"image": "gone.png"},
        {"picture": "one.png"},
        {"image": "images/two.png", "multiply": "x"},
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries))
    dataset = read(path, tmp_path / "images")
    shown = [(e.root, e.name, e.caption, e.multiply, e.shuffle is not None) for e in dataset.examples]
    assert shown == [
        (0, "images/two.png", "from a file, far", 2, False),
        (0, "images/one.png", "a cat, big, red", 1, True),
        (0, "images/one.png", "again, x", 1, False),
        (0, "images/one.png", "one", 1, False),
        (0, "images/two.png", "two", 1, False),
        (1, "one.png", "not read", 5, False),
        (1, "two.png", "from a file, far", 5, False),
    ]
    assert len({example.key for example in dataset.examples}) == 7
    assert [(p.path, p.what) for p in dataset.problems] == [
        ("gone.png", "the file does not exist."),
        ("list.json", "entry 6 has no image path."),
    ]
    assert [note.kind for note in dataset.notes] == [
        "sidecar",
        "file name",
        "file name",
        "duplicates",
        *["duplicate"] * 2,
    ]


def test_a_manifest_may_list_images_on_another_drive(
    paint: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = paint("one.png")

    def as_on_windows(path: object, start: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", as_on_windows)
    (tmp_path / "list.json").write_text(json.dumps([{"image": str(image)}]))
    (example,) = read(tmp_path / "list.json").examples
    assert example.path == image and example.name == image.as_posix()


@pytest.mark.parametrize(
    ("content", "told"), [("{", "not valid JSON"), ("{}", "not a list"), ("[]", "it lists no images")]
)
def test_an_invalid_manifest_is_refused_with_an_example(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(DatasetError, match=told):
        read(tmp_path / "list.json")


def test_all_images_at_multiply_zero_are_nothing_to_train_on(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png")
    (tmp_path / "images" / "multiply.txt").write_text("0")
    with pytest.raises(DatasetError, match="multiply"):
        read(tmp_path / "images")
