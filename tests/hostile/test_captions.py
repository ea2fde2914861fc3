"""More than 40 hostile captions and sidecars, read by a child whose memory is limited."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.captions import Caption, all_captions
from tests.hostile.painting import noise
from tests.hostile.test_images import scanned

MAX_GROWTH_BYTES = 200 << 20
MAX_CAPTION_BYTES = 64 * 1024 * 4


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Caption], dict[str, Any]]:
    root = tmp_path_factory.mktemp("hostile") / "captions"
    cases = list(all_captions())
    for case in cases:
        folder = root / case.name
        folder.mkdir(parents=True)
        noise().save(folder / "cat_1.png")
        (folder / f"cat_1.{case.extension}").write_bytes(case.content)
    found, said = scanned(root)
    assert said == ""
    return cases, found


def test_there_are_more_than_40_and_each_image_is_used_with_a_caption(captions: Any) -> None:
    cases, found = captions
    assert len(cases) > 40
    assert found["used"].keys() == {f"{case.name}/cat_1.png" for case in cases}
    assert found["problems"] == {}


def test_each_gives_the_expected_caption(captions: Any) -> None:
    cases, found = captions
    wrong = {}
    for case in cases:
        caption = found["used"][f"{case.name}/cat_1.png"][1]
        assert len(caption.encode()) <= MAX_CAPTION_BYTES and "\0" not in caption
        if case.expected is not None and caption != case.expected:
            wrong[case.name] = (caption[:80], case.expected)
    assert not wrong


def test_every_caption_that_was_not_read_literally_is_reported(captions: Any) -> None:
    cases, found = captions
    told: dict[str, set[str]] = {}
    for path, kind, what in found["notes"]:
        if path is None or kind == "duplicate":  # about several images, of which it lists up to 20
            continue
        assert len(what) < 400
        told.setdefault(Path(path).parent.name, set()).add(kind)
    assert {case.name for case in cases if case.note and case.note not in told.get(case.name, ())} == set()


def test_memory_stays_bounded_and_nothing_ran(captions: Any) -> None:
    _, found = captions
    assert found["grown_bytes"] < MAX_GROWTH_BYTES
    assert not Path("pwned").exists()


def test_the_captions_of_a_manifest_can_be_written_too(tmp_path: Path) -> None:
    captions = [
        "a \ud800 cat",
        "a\0cat",
        "a\ncat",
        5,
        None,
        ["a"],
        {"main_prompt": "\udfff"},
        {"caption": {}},
        "x" * 9999,
    ]
    entries = [{"image": f"cat_{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    for entry in entries:
        noise().save(tmp_path / str(entry["image"]))
    entries += [
        {"image": image} for image in ("~nobody-at-all/cat.png", "a\0b.png", "\ud800.png", "x" * 300, "/dev/zero", ".")
    ]
    manifest = tmp_path / "all.json"
    manifest.write_text(json.dumps([*entries, {"image": 5}, 7, None, []]))
    found, said = scanned(manifest)
    assert said == "" and len(found["used"]) == len(captions)
    assert len(found["problems"]) == 6 + 1  # what names no image is told of the manifest itself
    assert all("\0" not in caption and caption.encode() for _, caption in found["used"].values() if caption)
