"""The same image twice, by content; validation on images that are trained too."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ed2.app.images.scanning import split_off_validation
from ed2.data.example import Dataset
from ed2.data.folder import ScanOptions, scan
from ed2.data.report import ReportOptions, as_json, as_text, start_lines
from ed2.settings.files import with_defaults

Painter = Callable[..., Path]
PLAN = ReportOptions(seed=1, batch_size=1, grad_accum=1, max_epochs=1)


@pytest.fixture
def folder(paint: Painter, tmp_path: Path) -> Path:
    """Six images, two of them in a folder of their own."""
    for number in range(4):
        paint(f"{number}.png", caption="a cat")
    for number in range(4, 6):
        paint(f"sub/{number}.png", caption="a dog")
    return tmp_path / "images"


def read(*roots: Path) -> Dataset:
    return scan(roots, ScanOptions(resolution=64))


def counted(dataset: Dataset) -> list[str]:
    return [note.what for note in dataset.notes if note.kind == "duplicates"]


def test_no_image_twice_is_no_note(folder: Path) -> None:
    assert not [note for note in read(folder).notes if note.kind in ("duplicate", "duplicates")]


def test_a_folder_given_twice_or_within_another_is_reported_with_counts(folder: Path) -> None:
    assert counted(read(folder, folder)) == ["6 images are in the set more than once, as 12 files."]
    inner = read(folder, folder / "sub")
    assert counted(inner) == ["2 images are in the set more than once, as 4 files."]
    (first, _) = [note for note in inner.notes if note.kind == "duplicate"]
    path = folder / "sub" / "4.png"
    assert first.what == f"the same image is in the set 2 times: {path}, {path}."


def test_copies_of_any_name_and_time_are_found(folder: Path) -> None:
    for number in range(29):
        shutil.copy(folder / "1.png", folder / "sub" / f"copy {number:02}.png")
    dataset = read(folder)
    (note,) = [note for note in dataset.notes if note.kind == "duplicate"]
    assert note.path == "1.png" and "in the set 30 times: 1.png, sub/copy 00.png" in note.what
    assert "sub/copy 18.png and 10 more." in note.what and "copy 19" not in note.what
    assert counted(dataset) == ["1 image is in the set more than once, as 30 files."]
    assert {"path": "1.png", "what": note.what, "fix": note.fix} in as_json(dataset, PLAN)["notes"]
    for told in (as_text(dataset, PLAN), " ".join(start_lines(dataset))):
        assert "1 image is in the set more than once, as 30 files. To train an image more often, use multiply" in told


def test_entries_of_a_manifest_for_one_image_are_meant(folder: Path) -> None:
    manifest = folder.parent / "list.json"
    manifest.write_text('[{"image": "images/1.png"}, {"image": "images/1.png", "caption": "again"}]')
    assert not counted(read(manifest))


def test_validation_on_trained_images_is_reported(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "1.png", other / "renamed.png")
    shutil.copy(folder / "2.png", other / "also.png")
    dataset = read(folder)
    settings = with_defaults(
        {"resolution": 64, "data_root": [str(folder)], "val_split_mode": "manual", "manual_data_root": "x"}
    )
    for manual, words in ((other, "2 of 2 images"), (folder, "6 of 6 images")):
        apart = split_off_validation(settings.replaced(manual_data_root=str(manual)), dataset)
        (note,) = apart.notes
        assert note.startswith(f"{words} of loss/val are also trained on") and str(manual) in note
    curves = settings.replaced(val_split_mode="none", extra_manual_datasets=(f"cats={other}",))
    assert "of loss/cats are also trained on" in split_off_validation(curves, dataset).notes[0]


def test_a_split_of_a_set_that_is_there_twice_is_reported_and_one_without_copies_is_not(folder: Path) -> None:
    settings = with_defaults(
        {"resolution": 64, "data_root": [str(folder)], "val_split_mode": "automatic", "auto_split_proportion": 0.3}
    )
    assert not any("trained on, so" in note for note in split_off_validation(settings, read(folder)).notes)
    told = split_off_validation(settings, read(folder, folder)).notes
    assert any("of loss/val" in note and "also trained on" in note for note in told)
    stable = settings.replaced(val_split_mode="none", stabilize_training_loss=True)
    assert not split_off_validation(stable, read(folder)).notes
