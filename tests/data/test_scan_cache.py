"""A scan in which nothing has changed gives the dataset of the last one, and any change is noticed."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ed2.data.example import Dataset
from ed2.data.folder import ScanOptions, scan
from ed2.errors import StopRequested

Painter = Callable[..., Path]


@pytest.fixture
def root(paint: Painter, tmp_path: Path) -> Path:
    """Images of every kind of caption, and some that are worth a note or cannot be used; written a minute ago."""
    for number, size in enumerate([(64, 64), (96, 64), (32, 32), (400, 48)]):
        paint(f"{number}.{('png', 'jpg', 'webp', 'bmp')[number]}", size=size)
    folder = tmp_path / "images"
    (folder / "0.txt").write_text("a cat, black, asleep", encoding="utf-8")
    (folder / "1.yaml").write_text("main_prompt: a dog\ntags: [{tag: brown, weight: 2}, wet]\nmultiply: 2.5\n")
    (folder / "inner").mkdir()
    shutil.copy(folder / "0.png", folder / "inner/copy Ä.png")
    (folder / "inner/local.yaml").write_text("flip_p: 0.25\nbatch_id: inner\nmax_caption_length: 20\n")
    (folder / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
    (folder / "old.psd").write_bytes(b"8BPS")
    (folder / ".hidden.txt").write_text("not read")
    settle(folder)
    return folder


def settle(root: Path) -> None:
    """Date everything back, as if it had been written a minute ago."""
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture
def options(tmp_path: Path) -> ScanOptions:
    return ScanOptions(resolution=64, shuffle_tags=True, index_path=tmp_path / "user/index.json")


def read_again(root: Path, options: ScanOptions) -> tuple[Dataset, bool]:
    """The dataset, and whether it was remembered: then no folder is searched, and progress is only told at the end."""
    told: list[tuple[int, int]] = []
    found = scan([root], options, progress=lambda *counts: told.append(counts))
    return found, told == [(len(found.examples),) * 2]


def test_an_unchanged_folder_gives_the_same_dataset_without_reading_a_caption(root: Path, options: ScanOptions) -> None:
    first, was_known = read_again(root, options)
    assert not was_known and len(first.examples) == 5 and len(first.problems) == 2
    for only in (False, True):
        again, was_known = read_again(root, replace(options, headers_only=only))
        assert was_known and again == first == scan([root], replace(options, index_path=None))
        assert [e.digest for e in again.examples] == [e.digest for e in first.examples]
    assert {note.kind for note in first.notes} >= {"duplicate", "enlarged", "wide", "file name"}


def test_a_look_at_headers_is_remembered_once_all_images_are_known(root: Path, options: ScanOptions) -> None:
    first, headers = scan([root], options), replace(options, headers_only=True)
    shutil.rmtree(options.index_path.with_name("scans"))  # type: ignore[union-attr]
    assert read_again(root, headers) == (first, False)
    assert read_again(root, headers) == (first, True)


def test_a_resumed_run_takes_only_what_it_has_left_out_itself(root: Path, options: ScanOptions) -> None:
    first, headers = scan([root], options), replace(options, headers_only=True)
    assert first.left_out == {f"0/{problem.path}" for problem in first.problems} and len(first.left_out) == 2
    assert read_again(root, replace(headers, left_out=first.left_out)) == (first, True)
    found, was_known = read_again(root, replace(headers, left_out=frozenset()))
    assert not was_known and "cut.jpg" in [example.name for example in found.examples]
    assert read_again(root, headers) == (first, True)  # what was kept stays as it was


def edit_in_place(root: Path) -> None:
    """Change a caption, but neither its size nor its time."""
    before = (root / "0.txt").stat()
    (root / "0.txt").write_text("a cat, white, asleep", encoding="utf-8")
    os.utime(root / "0.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "caption": edit_in_place,
    "new caption": lambda root: (root / "2.txt").write_text("a bird"),
    "value": lambda root: (root / "inner/local.yaml").write_text("flip_p: 0.5"),
    "new value": lambda root: (root / "multiply.txt").write_text("2"),
    "image": lambda root: Image.new("RGB", (64, 64), "teal").save(root / "2.webp"),
    "no image": lambda root: (root / "2.webp").unlink(),
    "renamed": lambda root: (root / "inner").rename(root / "other"),
    "whole": lambda root: shutil.copy(root / "1.jpg", root / "cut.jpg"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_noticed(root: Path, options: ScanOptions, change: Callable[[Path], object]) -> None:
    first = scan([root], options)
    change(root)
    again, was_known = read_again(root, options)
    assert not was_known and again == scan([root], replace(options, index_path=None))
    assert again.fingerprint != first.fingerprint


def test_other_options_and_roots_have_their_own(root: Path, options: ScanOptions) -> None:
    scan([root], options)
    for changed in (
        replace(options, resolution=128),
        replace(options, flip_p=0.5),
        replace(options, follow_links=True),
    ):
        assert read_again(root, changed) == (scan([root], replace(changed, index_path=None)), False)
    assert read_again(root / "inner", options)[1] is False
    assert read_again(root, options)[1] is True


def test_what_was_written_just_now_is_read_again(root: Path, options: ScanOptions) -> None:
    (root / "0.txt").write_text("a cat", encoding="utf-8")
    scan([root], options)
    assert read_again(root, options)[1] is False


def test_what_may_be_read_next_time_is_not_kept(root: Path, options: ScanOptions) -> None:
    (root / "1.yaml").write_text("main_prompt: [")
    settle(root)
    scan([root], options)
    assert read_again(root, options)[1] is False


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_a_link_to_a_file_is_followed_to_its_target_and_one_to_a_folder_is_always_searched(
    root: Path, options: ScanOptions, tmp_path: Path
) -> None:
    caption = tmp_path / "elsewhere.txt"
    caption.write_text("a bird")
    os.utime(caption, (time.time() - 60,) * 2)
    (root / "2.txt").symlink_to(caption)
    scan([root], options)
    assert read_again(root, options)[1] is True
    caption.write_text("a nest")
    assert "a nest" in [example.caption for example in scan([root], options).examples]
    os.utime(caption, (time.time() - 60,) * 2)
    (root / "linked").symlink_to(root / "inner")
    scan([root], options)
    assert read_again(root, options)[1] is False


@pytest.mark.parametrize("damage", [b"", b"{}", b"null\n{}", b"\xff" * 200])
def test_a_damaged_cache_is_written_again(root: Path, options: ScanOptions, tmp_path: Path, damage: bytes) -> None:
    first = scan([root], options)
    (file,) = (tmp_path / "user/scans").iterdir()
    content = file.read_bytes()
    for broken in (damage, content[:-1], content.replace(b"a cat", b"a dog")):
        file.write_bytes(broken)
        assert read_again(root, options) == (first, False)
        assert read_again(root, options) == (first, True)


def test_few_are_kept_and_those_in_use_stay(root: Path, options: ScanOptions, tmp_path: Path) -> None:
    for number in range(12):
        scan([root], replace(options, flip_p=number / 16))
        assert read_again(root, options if number else replace(options, flip_p=0.0))[1] is True
    assert len(list((tmp_path / "user/scans").iterdir())) == 8


def test_it_can_be_stopped(root: Path, options: ScanOptions) -> None:
    scan([root], options)
    with pytest.raises(StopRequested):
        scan([root], options, should_stop=lambda: True)
