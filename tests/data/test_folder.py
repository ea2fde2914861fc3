import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ed2.data.folder import ScanOptions, scan
from ed2.data.images import check_image
from ed2.data.report import ReportOptions, as_text
from ed2.errors import DatasetError, StopRequested

Painter = Callable[..., Path]
OPTIONS = ScanOptions(resolution=64, flip_p=0.25, cond_dropout=0.125)

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights that Windows users lack")


def test_images_come_with_captions_sizes_and_buckets_sorted_by_name(paint: Painter, tmp_path: Path) -> None:
    paint("b/two.jpg", size=(80, 48))
    paint("b/one_3.png", size=(128, 128), caption="a red cat")
    paint("a.webp", size=(64, 64), caption=" first \n")
    dataset = scan([tmp_path / "images"], OPTIONS)
    found = [(example.name, example.caption, example.size, example.bucket) for example in dataset.examples]
    assert found == [
        ("a.webp", "first", (64, 64), (64, 64)),
        ("b/one_3.png", "a red cat", (128, 128), (64, 64)),
        ("b/two.jpg", "two", (80, 48), (80, 48)),
    ]
    assert all(example.flip_p == 0.25 and example.cond_dropout == 0.125 for example in dataset.examples)
    assert dataset.problems == ()
    assert dataset.examples[0].path.is_absolute()


def test_extensions_ignore_case_and_caption_takes_precedence_over_txt(paint: Painter, tmp_path: Path) -> None:
    paint("one.PNG").with_suffix(".TXT").write_text("from txt")
    paint("two.Jpeg").with_suffix(".Caption").write_text("from caption")
    paint("three.png", caption="from txt").with_suffix(".caption").write_text("from caption")
    dataset = scan([tmp_path / "images"], OPTIONS)
    assert [example.caption for example in dataset.examples] == ["from txt", "from caption", "from caption"]


def test_hidden_and_other_files_and_folders_are_ignored(paint: Painter, tmp_path: Path) -> None:
    paint("seen.png")
    paint(".hidden.png")
    paint(".cache/inside.png")
    (tmp_path / "images" / "notes.md").write_text("words")
    dataset = scan([tmp_path / "images"], OPTIONS)
    assert [example.name for example in dataset.examples] == ["seen.png"]
    assert dataset.problems == ()


def test_names_in_any_script_are_read(paint: Painter, tmp_path: Path) -> None:
    names = ["Kätzchen_1.png", "猫/ねこ.jpg", "кот 😀.webp", "e\u0301.png", "é.bmp", "two  spaces .png"]
    for name in names:
        paint(name, caption=f"caption of {name}")
    dataset = scan([tmp_path / "images"], OPTIONS)
    assert sorted(example.name for example in dataset.examples) == sorted(names)
    assert all(example.caption == f"caption of {example.name}" for example in dataset.examples)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_a_name_that_is_not_valid_text_is_read_and_can_be_printed(paint: Painter, tmp_path: Path) -> None:
    paint("plain.png").rename(os.fsdecode(os.fsencode(tmp_path / "images") + b"/caf\xe9.png"))
    (only,) = scan([tmp_path / "images"], OPTIONS).examples
    (only.name + only.caption + only.key).encode("utf-8")
    assert only.name == "caf\\udce9.png" and only.path.exists()


@needs_links
def test_links_are_followed_and_loops_end(paint: Painter, tmp_path: Path) -> None:
    folder = paint("in/cat.png").parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (64, 64)).save(elsewhere / "dog.png")
    (folder / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    (folder / "self").symlink_to(folder / "self")
    (folder / "zoo").symlink_to(elsewhere, target_is_directory=True)
    (folder / "linked.png").symlink_to(elsewhere / "dog.png")
    (folder / "nothing.png").symlink_to(elsewhere / "gone.png")
    dataset = scan([tmp_path / "images"], replace(OPTIONS, follow_links=True))
    assert [example.name for example in dataset.examples] == ["in/cat.png", "in/linked.png", "in/zoo/dog.png"]
    assert [(problem.path, problem.what) for problem in dataset.problems] == [
        ("in/nothing.png", "it is a broken link.")
    ]
    plan = ReportOptions(seed=0, batch_size=1, grad_accum=1, max_epochs=1)
    linked = [note for note in dataset.notes if note.kind == "link"]
    assert [note.path for note in linked] == ["in/linked.png"]
    assert str(elsewhere / "dog.png") in linked[0].what and "It is used." in linked[0].fix
    assert "Links to files outside the image folders; they are used (1): in/linked.png." in as_text(dataset, plan)


@needs_links
def test_a_link_that_leads_out_of_the_dataset_is_named_and_not_searched(paint: Painter, tmp_path: Path) -> None:
    folder = paint("in/cat.png").parent
    (folder.parent / "more").mkdir()
    (folder / "inside").symlink_to(folder.parent / "more", target_is_directory=True)
    (folder / "root").symlink_to("/", target_is_directory=True)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "beside").symlink_to(f"{folder.parent}-other", target_is_directory=True)
    Path(f"{folder.parent}-other").mkdir()
    folders: list[int] = []
    dataset = scan([folder.parent], OPTIONS, progress=lambda done, total: folders.append(total))
    assert [example.name for example in dataset.examples] == ["in/cat.png"]
    assert [problem.path for problem in dataset.problems] == ["in/beside", "in/root", "in/up"]
    assert all("outside the image folders" in problem.what for problem in dataset.problems)
    assert all("follow_links" in problem.fix for problem in dataset.problems)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_with_the_name_of_an_image_does_not_hang_the_scan(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    assert [problem.path for problem in scan([tmp_path / "images"], OPTIONS).problems] == ["pipe.png"]


def test_a_folder_or_a_pipe_in_place_of_a_sidecar_is_reported_and_does_not_block(
    paint: Painter, tmp_path: Path
) -> None:
    for name in ("cat", "dog", "emu"):
        paint(f"{name}.png")
    folder = tmp_path / "images"
    (folder / "emu.caption").write_text("a large bird")
    named = ["cat.txt", "dog.yaml", "emu.txt", "global.yaml", "local.yml", "multiply.txt", "shuffle_tags.txt"]
    for number, name in enumerate(named):
        if hasattr(os, "mkfifo") and number % 2:
            os.mkfifo(folder / name)
        else:
            (folder / name).mkdir()
    dataset = scan([folder], OPTIONS)
    assert [example.caption for example in dataset.examples] == ["cat", "dog", "a large bird"]
    told = [(note.path, note.what) for note in dataset.notes if note.kind == "sidecar"]
    assert {path for path, _ in told} == {*named[3:], "cat.png", "dog.png", "emu.png"}
    assert all("it is not a file" in what for _, what in told)
    assert dict(told)["cat.png"] == "in cat.txt: it cannot be read (it is not a file)."
    shown = as_text(dataset, ReportOptions(seed=0, batch_size=1, grad_accum=1, max_epochs=1))
    assert "cat.png: in cat.txt: it cannot be read (it is not a file)." in shown


def test_every_unusable_file_is_reported_and_the_rest_is_used(paint: Painter, tmp_path: Path) -> None:
    paint("good.png")
    folder = tmp_path / "images"
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><html>")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "folder.png").mkdir()
    cut = paint("cut.jpg", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:900])
    paint("thread.png", size=(5000, 1))
    dataset = scan([folder], OPTIONS)
    assert [example.name for example in dataset.examples] == ["good.png"]
    problems = {problem.path: problem.what for problem in dataset.problems}
    assert list(problems) == ["cut.jpg", "empty.png", "page.jpg", "phone.heic", "thread.png"]
    assert "cut short at 900 bytes" in problems["cut.jpg"]
    assert "empty" in problems["empty.png"]
    assert "HTML" in problems["page.jpg"]
    assert "HEIC" in problems["phone.heic"]
    assert "4 x 1" in problems["thread.png"]
    assert all(problem.fix and problem.what.endswith(".") for problem in dataset.problems)


@pytest.mark.parametrize(
    ("resolution", "side", "is_used"), [(64, 16, True), (64, 15, False), (256, 64, True), (256, 63, False)]
)
def test_an_image_with_too_short_a_side_is_not_used(
    paint: Painter, tmp_path: Path, resolution: int, side: int, is_used: bool
) -> None:
    paint("good.png", size=(256, 256))
    paint("narrow.png", size=(side, side))
    dataset = scan([tmp_path / "images"], replace(OPTIONS, resolution=resolution))
    assert len(dataset.examples) == 1 + is_used
    assert len(dataset.problems) == 1 - is_used


def test_notes_report_enlarged_too_wide_animated_and_uncaptioned_images(paint: Painter, tmp_path: Path) -> None:
    paint("small.png", size=(40, 40), caption="small")
    paint("wide.png", size=(640, 64), caption="wide")
    paint("named_1.png")
    paint("guessed.png").with_suffix(".txt").write_bytes(b"caf\xe9")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "images" / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "images" / "moving.txt").write_text("moving")
    dataset = scan([tmp_path / "images"], OPTIONS)
    assert [(note.path, note.kind) for note in dataset.notes] == [
        ("guessed.png", "guessed"),
        ("moving.gif", "animated"),
        ("moving.gif", "plain"),
        ("named_1.png", "file name"),
        ("small.png", "enlarged"),
        ("wide.png", "wide"),
    ]
    assert len(dataset.examples) == 5


@pytest.mark.parametrize("name", ["nowhere", "file.png"])
def test_a_root_that_is_not_a_folder_is_named(paint: Painter, tmp_path: Path, name: str) -> None:
    paint("cat.png")
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=name) as caught:
        scan([tmp_path / "images", tmp_path / name, tmp_path / "also gone"], OPTIONS)
    assert [problem.path for problem in caught.value.problems] == [str(tmp_path / name), str(tmp_path / "also gone")]


def test_empty_folder_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        scan([tmp_path / "empty"], OPTIONS)
    assert f"{tmp_path / 'empty'}: the folder is empty." in str(caught.value)


def test_a_folder_of_unusable_files_says_how_many_and_why(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    (tmp_path / "notes.md").write_text("words")
    with pytest.raises(DatasetError) as caught:
        scan([tmp_path], OPTIONS)
    text = str(caught.value)
    assert "none of its 26 files can be used; 25 look like an image" in text
    assert "00.png: the file is empty." in text and "and 5 more" in text


def test_no_root_at_all_is_an_error() -> None:
    with pytest.raises(DatasetError, match="data_root"):
        scan([], OPTIONS)


def test_several_roots_are_distinguished(paint: Painter, tmp_path: Path) -> None:
    paint("one/cat.png")
    paint("two/cat.png")
    (tmp_path / "images/two/bad.png").write_bytes(b"")
    dataset = scan([tmp_path / "images/one", tmp_path / "images/two"], OPTIONS)
    assert [(example.root, example.name) for example in dataset.examples] == [(0, "cat.png"), (1, "cat.png")]
    assert len({example.key for example in dataset.examples}) == 2
    assert [(problem.root, problem.path) for problem in dataset.problems] == [(1, "bad.png")]


def test_the_second_scan_reads_only_what_has_changed(
    paint: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [paint(f"{number}.png") for number in range(6)]
    paths[5].write_bytes(b"")
    options = replace(OPTIONS, index_path=tmp_path / "user/index.json")
    first = scan([tmp_path / "images"], options)
    read: list[str] = []
    monkeypatch.setattr("ed2.data.reading.check_image", lambda path: read.append(path.name) or check_image(path))
    assert scan([tmp_path / "images"], options) == first
    assert read == []
    paint("1.png", size=(80, 48))
    paths[2].unlink()
    changed = scan([tmp_path / "images"], options)
    assert read == ["1.png"]
    assert [example.name for example in changed.examples] == ["0.png", "1.png", "3.png", "4.png"]
    assert changed.examples[1].bucket == (80, 48)
    assert "2.png" not in (tmp_path / "user/index.json").read_text()


def test_an_index_that_cannot_be_written_is_a_note(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png", caption="a cat")
    (tmp_path / "file").write_text("in the way")
    dataset = scan([tmp_path / "images"], replace(OPTIONS, index_path=tmp_path / "file" / "index.json"))
    assert len(dataset.examples) == 1
    assert [note.kind for note in dataset.notes] == ["index"]


def test_the_fingerprint_changes_with_files_captions_and_buckets_only(paint: Painter, tmp_path: Path) -> None:
    cat = paint("cat.png", size=(80, 60), caption="a cat")
    folder = tmp_path / "images"
    first = scan([folder], OPTIONS).fingerprint
    assert scan([folder], replace(OPTIONS, threads=1)).fingerprint == first
    (folder / "notes.md").write_text("words")
    assert scan([folder], OPTIONS).fingerprint == first
    moved = folder.rename(tmp_path / "moved")
    assert scan([moved], OPTIONS).fingerprint == first
    moved.rename(folder)
    os.utime(cat, ns=(1, 1))
    assert scan([folder], OPTIONS).fingerprint == first, "a copy has another time"
    prints = [first, scan([folder], replace(OPTIONS, resolution=128)).fingerprint]
    cat.with_suffix(".txt").write_text("a dog")
    prints.append(scan([folder], OPTIONS).fingerprint)
    cat.write_bytes(cat.read_bytes() + b"x")  # behind its end
    prints.append(scan([folder], OPTIONS).fingerprint)
    paint("dog.png")
    prints.append(scan([folder], OPTIONS).fingerprint)
    assert len(set(prints)) == 5


def test_progress_is_reported_up_to_the_end(paint: Painter, tmp_path: Path) -> None:
    for number in range(5):
        paint(f"{number}.png")
    told: list[tuple[int, int]] = []
    scan([tmp_path / "images"], OPTIONS, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_stopped_scan_remembers_what_it_has_read(paint: Painter, tmp_path: Path) -> None:
    for number in range(30):
        paint(f"{number}.png")
    index_path = tmp_path / "user/index.json"
    done: list[int] = []
    with pytest.raises(StopRequested):
        scan(
            [tmp_path / "images"],
            replace(OPTIONS, index_path=index_path),
            progress=lambda count, _: done.append(count),
            should_stop=lambda: len(done) > 4,
        )
    assert index_path.exists()
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_folder_without_permission_is_reported(paint: Painter, tmp_path: Path) -> None:
    paint("cat.png")
    closed = paint("closed/dog.png").parent
    closed.chmod(0)
    try:
        dataset = scan([tmp_path / "images"], OPTIONS)
    finally:
        closed.chmod(0o700)
    assert [problem.path for problem in dataset.problems] == ["closed"]
