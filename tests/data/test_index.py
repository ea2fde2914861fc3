import json
import os
import time
from pathlib import Path

import pytest

from ed2.data.images import ImageFacts
from ed2.data.reading import ImageIndex
from ed2.errors import Problem

GOOD = ImageFacts((64, 48), animated=True, digest="0a")


def a_file(tmp_path: Path, name: str = "cat.png") -> tuple[Path, os.stat_result]:
    path = tmp_path / name
    path.write_bytes(b"content")
    return path, path.stat()


def test_remembered_results_are_found_by_another_process(tmp_path: Path) -> None:
    path, stat = a_file(tmp_path)
    bad = ImageFacts((0, 0), Problem(str(path), "it is broken.", "Mend it."))
    other, other_stat = a_file(tmp_path, "Kätzchen 猫.png")
    index = ImageIndex(tmp_path / "user" / "index.json")
    index.remember(path, stat, bad)
    index.remember(other, other_stat, GOOD)
    index.save()
    again = ImageIndex(tmp_path / "user" / "index.json")
    assert again.find(path, stat) == bad
    assert again.find(other, other_stat) == GOOD


def test_a_changed_file_is_not_remembered(tmp_path: Path) -> None:
    path, stat = a_file(tmp_path)
    index = ImageIndex(None)
    index.remember(path, stat, GOOD)
    assert index.find(path, stat) == GOOD
    os.utime(path, ns=(1, stat.st_mtime_ns + 1))
    assert index.find(path, path.stat()) is None
    path.write_bytes(b"longer content")
    os.utime(path, ns=(1, stat.st_mtime_ns))
    assert index.find(path, path.stat()) is None


def test_temporary_problems_are_not_remembered(tmp_path: Path) -> None:
    path, stat = a_file(tmp_path)
    index = ImageIndex(None)
    index.remember(path, stat, ImageFacts((0, 0), Problem(str(path), "it is locked."), lasting=False))
    assert index.find(path, stat) is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_damaged_index_is_started_over(tmp_path: Path, damage: bytes) -> None:
    path, stat = a_file(tmp_path)
    (tmp_path / "index.json").write_bytes(damage)
    index = ImageIndex(tmp_path / "index.json")
    assert index.find(path, stat) is None
    index.remember(path, stat, GOOD)
    index.save()
    assert ImageIndex(tmp_path / "index.json").find(path, stat) == GOOD


@pytest.mark.parametrize("entry", [[], [1, 2], "text", [1, 2, "3", 4, False, "", ""], None])
def test_an_invalid_entry_is_ignored(tmp_path: Path, entry: object) -> None:
    path, stat = a_file(tmp_path)
    index = ImageIndex(tmp_path / "index.json")
    index.remember(path, stat, GOOD)
    index.save()
    content = json.loads((tmp_path / "index.json").read_text())
    content["entries"][str(path)] = entry
    (tmp_path / "index.json").write_text(json.dumps(content))
    assert ImageIndex(tmp_path / "index.json").find(path, stat) is None


def test_an_index_of_another_pillow_is_started_over(tmp_path: Path) -> None:
    path, stat = a_file(tmp_path)
    index = ImageIndex(tmp_path / "index.json")
    index.remember(path, stat, GOOD)
    index.save()
    text = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(text.replace('"pillow": "', '"pillow": "0.'))
    assert ImageIndex(tmp_path / "index.json").find(path, stat) is None


def test_only_missing_files_below_the_roots_are_forgotten(tmp_path: Path) -> None:
    index = ImageIndex(None)
    stat = tmp_path.stat()
    for name in ("a/here.png", "a/gone.png", "ab/gone.png"):
        index.remember(tmp_path / name, stat, GOOD)
    index.forget_missing([tmp_path / "a"], {str(tmp_path / "a/here.png")})
    assert index.find(tmp_path / "a/here.png", stat) and index.find(tmp_path / "ab/gone.png", stat)
    assert index.find(tmp_path / "a/gone.png", stat) is None


def test_the_index_leaves_no_other_files_and_is_written_only_if_needed(tmp_path: Path) -> None:
    path, stat = a_file(tmp_path)
    index_path = tmp_path / "user" / "index.json"
    index = ImageIndex(index_path)
    index.save()
    assert not index_path.exists()
    index.remember(path, stat, GOOD)
    index.save()
    assert [file.name for file in index_path.parent.iterdir()] == ["index.json"]
    index_path.unlink()
    index.save()
    assert not index_path.exists()


def test_twenty_thousand_files_are_remembered_in_a_moment(tmp_path: Path) -> None:
    stat = tmp_path.stat()
    names = [tmp_path / f"image {number}.png" for number in range(20_000)]
    start = time.process_time()
    index = ImageIndex(tmp_path / "index.json")
    for name in names:
        index.remember(name, stat, GOOD)
    index.save()
    again = ImageIndex(tmp_path / "index.json")
    assert all(again.find(name, stat) for name in names)
    assert time.process_time() - start < 2
