"""The dataset workbench: marks, near duplicates, changes of many captions, side files in words."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.app.images import scanning
from ed2.app.images.bulk import ADD_FIRST, ADD_LAST, REMOVE, REPLACE, REWRITE, BulkEdit
from ed2.app.images.captions import MAX_CHARACTERS
from ed2.app.images.edits import Edits
from ed2.app.images.likeness import alike, fingerprint
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.workbench import PER_PAGE, Query, Workbench
from ed2.demo import __file__ as demo
from ed2.errors import Ed2Error
from ed2.settings.files import with_defaults
from tests.tiny import make_images

PICTURES = sorted((Path(demo).parent / "pictures").glob("*.png"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetDesk:
    monkeypatch.setattr(scanning, "INDEX_FILE", tmp_path / "index.json")
    return DatasetDesk(Edits(tmp_path / "kept"))


def check(desk: DatasetDesk, folder: Path, **settings: object) -> Workbench:
    desk.look(with_defaults({"data_root": [str(folder)], "resolution": 64, "seed": 1, **settings}))
    assert desk.read_all(lambda done, total: None) and desk.compare(lambda done, total: None)
    assert desk.bench
    return desk.bench


def marked(bench: Workbench) -> dict[str, set[str]]:
    return {item.name: set(item.marks) for item in bench.items}


def test_every_image_has_the_marks_that_it_deserves(desk: DatasetDesk, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", [(96, 96), (96, 96), (200, 96), (40, 40), (400, 64)])
    (folder / "00.txt").write_text("cat " * 100)
    (folder / "01.txt").unlink()
    (folder / "same.png").write_bytes((folder / "01.png").read_bytes())
    (folder / "_.png").write_bytes(PICTURES[1].read_bytes())
    Image.open(PICTURES[1]).convert("RGB").resize((80, 80)).save(folder / "alike.jpg", quality=60)
    (folder / "broken.png").write_bytes(PICTURES[1].read_bytes()[:200])
    assert marked(check(desk, folder)) == {
        "00.png": {"long"},
        "01.png": {"named", "copies"},
        "02.png": set(),
        "03.png": {"small"},
        "04.png": {"cropped", "lone"},
        "_.png": {"uncaptioned", "alike"},
        "alike.jpg": {"named", "alike"},
        "broken.png": {"unusable"},
        "same.png": {"named", "copies"},
    }
    found = next(item for item in desk.bench.items if item.name == "same.png")
    assert "The same image as 01.png." in found.remarks
    assert desk.bench.counts["copies"] == 2


def test_near_duplicates_are_known_again_after_a_restart_by_their_content(desk: DatasetDesk, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", [(96, 96)])
    for name, quality in (("one", 60), ("two", 90)):
        Image.open(PICTURES[1]).convert("RGB").resize((80, 80)).save(folder / f"{name}.jpg", quality=quality)
    assert marked(check(desk, folder))["two.jpg"] == {"named", "alike"}
    kept = scanning.fingerprints_file()
    content = json.loads(kept.read_text())
    assert len(content["prints"]) == 3
    empty = dict.fromkeys(content["prints"], "")  # as of images without features: it shows that they are not read again
    kept.write_text(json.dumps({**content, "prints": empty}))
    moved = folder.rename(tmp_path / "elsewhere")
    assert marked(check(DatasetDesk(Edits(tmp_path / "kept")), moved))["two.jpg"] == {"named"}
    for damaged in ("{", '{"version": 0, "prints": {}}', '{"version": 1, "prints": [1]}'):
        kept.write_text(damaged)
        assert marked(check(DatasetDesk(Edits(tmp_path / "kept")), moved))["two.jpg"] == {"named", "alike"}
    kept.write_text(json.dumps({**content, "prints": dict.fromkeys(content["prints"], "zz" * 24)}))
    assert marked(check(DatasetDesk(Edits(tmp_path / "kept")), moved))["two.jpg"] == {"named", "alike"}


def test_the_first_answer_comes_from_headers_and_a_new_check_ends_the_old_one(
    desk: DatasetDesk, tmp_path: Path
) -> None:
    folder = make_images(tmp_path / "images", [(96, 96)] * 3)
    (folder / "broken.png").write_bytes(PICTURES[1].read_bytes()[:200])
    settings = with_defaults({"data_root": [str(folder)], "resolution": 64, "seed": 1})
    desk.look(settings)
    assert desk.bench.checked.dataset.num_unread == 4 and not desk.bench.counts.get("unusable")
    assert not desk.read_all(lambda done, total: desk.look(settings))
    assert desk.read_all(lambda done, total: None)
    assert desk.bench.checked.dataset.num_unread == 0 and desk.bench.counts["unusable"] == 1
    with pytest.raises(Ed2Error):
        desk.look(with_defaults({"data_root": [str(tmp_path / "nowhere")]}))
    assert desk.bench is None and not desk.read_all(lambda done, total: None)


def test_pages_and_orders(desk: DatasetDesk, tmp_path: Path) -> None:
    sizes = [(64 + number, 80) for number in range(PER_PAGE + 1)]
    bench = check(desk, make_images(tmp_path / "images", sizes))
    for asked, page, length in ((1, 1, PER_PAGE), (2, 2, 1), (9, 2, 1)):
        shown = bench.page(Query(page=asked))
        assert (shown.page, shown.pages, len(shown.items)) == (page, 2, length)
    assert bench.page(Query(sort="Largest first")).items[0][1].name == f"{PER_PAGE}.png"
    assert bench.page(Query(search="number 7")).numbers == (7,)
    assert dict(bench.tags(Query()))["an image of number 7"] == 1


def test_copies_of_the_demo_images_are_alike_and_the_images_themselves_are_not(tmp_path: Path) -> None:
    pictures = PICTURES[1::3]
    for number, path in enumerate(pictures):
        Image.open(path).convert("RGB").resize((128, 128)).save(tmp_path / f"{number}.jpg", quality=75)
    copies = [tmp_path / f"{number}.jpg" for number in range(len(pictures))]
    prints = np.stack([fingerprint(path) for path in (*pictures, *copies)])
    assert alike(prints) == [[number, number + len(pictures)] for number in range(len(pictures))]
    Image.new("RGB", (64, 64), "red").save(tmp_path / "plain.png")
    assert fingerprint(tmp_path / "plain.png") is None


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (BulkEdit(ADD_FIRST, "sks dog"), "asleep, night", "sks dog, asleep, night"),
        (BulkEdit(ADD_FIRST, "sks dog,"), "", "sks dog"),
        (BulkEdit(ADD_FIRST, "SKS dog"), "sks dog, asleep", "sks dog, asleep"),
        (BulkEdit(ADD_LAST, "red"), "a cat", "a cat, red"),
        (BulkEdit(ADD_LAST, "red"), "a cat, Red", "a cat, Red"),
        (BulkEdit(REPLACE, "cat", "dog"), "a cat, cats", "a dog, dogs"),
        (BulkEdit(REPLACE, "red"), "a cat, red, night", "a cat, night"),
        (BulkEdit(REPLACE, "red"), "a,b", "a,b"),
        (BulkEdit(REMOVE, "Night"), "a cat, night, 1,000 stars", "a cat, 1,000 stars"),
        (BulkEdit(REMOVE, "cat"), "a cat,night", "a cat,night"),
        (BulkEdit(REWRITE, " photo of  sks dog"), "IMG", "photo of sks dog"),
    ],
)
def test_a_change_of_a_caption(edit: BulkEdit, before: str, after: str) -> None:
    assert edit.of(before) == after


def test_a_bulk_edit_leaves_out_what_it_cannot_write(desk: DatasetDesk, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", [(96, 96)] * 4)
    (folder / "00.yaml").write_text("main_prompt: a cat")
    (folder / "01.txt").write_text("x " * (MAX_CHARACTERS // 2))
    (folder / "02.txt").unlink()
    check(desk, folder)
    plan = desk.plan(range(9), BulkEdit(ADD_FIRST, "sks"))
    assert [change.new for change in plan.changes] == ["sks, 02", "sks, an image of number 3"]
    assert [text.partition(" of ")[2].split(" ")[0] for text in plan.skipped] == ["00.png", "01.png"]
    desk.apply(plan)
    assert (folder / "02.txt").read_text() == "sks, 02\n"
    assert desk.undo("") == 'Undone: "sks" added in 2 captions.'
    assert not (folder / "02.txt").exists()
    desk.keep({str(folder / "03.png"): "typed"})
    with pytest.raises(Ed2Error, match="1 caption of these images is not saved"):
        desk.plan(range(9), BulkEdit(ADD_FIRST, "sks"))


def test_weights_are_written_where_nothing_stronger_says_otherwise(desk: DatasetDesk, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images" / "one", [(96, 96)] * 2).parent
    other = make_images(folder / "two", [(80, 64)], seed=1)
    (folder / "global.yaml").write_text("flip_p: 0.5\nmultiply: 3")
    check(desk, folder)
    assert [(name, count, weight) for _, name, count, weight in desk.folders()] == [
        ("images/one", 2, 3),
        ("images/two", 1, 3),
    ]
    desk.set_weight(other, 0.5)
    assert (other / "multiply.txt").read_text() == "0.5\n"
    desk.refresh()
    assert [weight for *_, weight in desk.folders()] == [3, 0.5]
    desk.set_weight(other, None)
    assert not (other / "multiply.txt").exists()
    (other / "local.yml").write_text("multiply: 2")
    for place, weight, why in (
        (other, 1, "local.yml"),
        (folder / "one", 1e9, "0 to 10,000"),
        (tmp_path, 1, "no images"),
    ):
        with pytest.raises(Ed2Error, match=why):
            desk.set_weight(place, weight)
