"""Automatic captions: drafts for the images without a caption, by a tiny real BLIP; never over what is there."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.images.captions import CaptionReader
from ed2.app.images.edits import Edits
from ed2.app.page.auto_captions import AutoCaptioner
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.workbench import Query
from ed2.errors import ModelError, RefusedError
from ed2.settings.files import with_defaults
from tests.hub import LocalHub, download, files_of, serving
from tests.tiny import WORDS, make_captioner, make_images


@pytest.fixture
def desk(tmp_path: Path) -> DatasetDesk:
    """Over three images, the second of which has a caption."""
    folder = make_images(tmp_path / "images", [(96, 96), (80, 64), (64, 80)])
    for name in ("00.txt", "02.txt"):
        (folder / name).unlink()
    desk = DatasetDesk(Edits(tmp_path / "edits"))
    desk.look(with_defaults({"data_root": [str(folder)], "resolution": 64}))
    return desk


@pytest.fixture
def work(desk: DatasetDesk) -> Iterator[AutoCaptioner]:
    work = AutoCaptioner(desk, lambda: False, lambda: None)
    yield work
    work.close()


def everything(desk: DatasetDesk) -> list[int]:
    assert desk.bench
    return desk.bench.matching(Query())


def caption(work: AutoCaptioner, desk: DatasetDesk, model: Path, *, replaces: bool = False) -> str:
    work.start(everything(desk), model, replaces=replaces)
    work.wait()
    assert work.shown.state == "done", work.shown.text
    return work.shown.text


def drafts(desk: DatasetDesk) -> dict[str, str]:
    return {item.name: desk.text_of(item, CaptionReader(desk.roots)) for item in desk.unsaved}


def test_only_images_without_a_caption_get_a_draft_and_nothing_is_written(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, tmp_path: Path
) -> None:
    before = sorted((tmp_path / "images").iterdir())
    text = caption(work, desk, captioner)
    assert text.startswith("2 captions made.") and "1 image left as it is." in text
    found = drafts(desk)
    assert list(found) == ["00.png", "02.png"] == [item.name for item in desk.proposed]
    said = {word.strip(",").removesuffix("s") for text in found.values() for word in text.split()}
    assert said - {""} and said <= {*WORDS, ""}
    assert sorted((tmp_path / "images").iterdir()) == before
    again = dict(found)
    desk.discard_proposed()
    caption(work, desk, captioner)
    assert drafts(desk) == again  # the same image gets the same caption


def test_a_caption_is_replaced_only_on_request_and_what_was_typed_never(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, tmp_path: Path
) -> None:
    desk.keep({str(tmp_path / "images" / "00.png"): "mine"})
    caption(work, desk, captioner, replaces=True)
    assert drafts(desk)["00.png"] == "mine" and [item.name for item in desk.proposed] == ["01.png", "02.png"]
    with pytest.raises(RefusedError, match="each of these images has a caption or a draft"):
        work.start(everything(desk), captioner, replaces=True)


def test_drafts_are_saved_as_edited_or_discarded_and_a_save_is_undone_as_one(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    caption(work, desk, captioner)
    desk.keep({str(folder / "00.png"): "a red cat, edited"})
    made = drafts(desk)["02.png"]
    assert {item.name: desk.is_proposed(item) for item in desk.proposed} == {"00.png": False, "02.png": True}
    assert desk.save(desk.proposed) == "Saved 2 captions."
    assert (folder / "00.txt").read_text() == "a red cat, edited\n" and (folder / "02.txt").read_text() == f"{made}\n"
    assert not desk.unsaved and not desk.proposed
    desk.undo("")
    assert not (folder / "00.txt").exists() and not (folder / "02.txt").exists()
    caption(work, desk, captioner)
    desk.keep({str(folder / "00.png"): "edited again"})
    assert desk.discard_proposed() == "Discarded 1 automatic caption."
    assert drafts(desk) == {"00.png": "edited again"}, "what was typed is not lost"


def test_none_is_made_during_a_run_and_a_start_or_a_press_ends_it_with_its_drafts(
    desk: DatasetDesk, captioner: Path
) -> None:
    is_training, begun, go_on = threading.Event(), threading.Event(), threading.Event()

    def read_libraries() -> None:
        begun.set()
        go_on.wait(60)

    work = AutoCaptioner(desk, is_training.is_set, read_libraries)
    for end, reason in ((work.stop, "was stopped"), (is_training.set, "ended because a run was started")):
        begun.clear()
        go_on.clear()
        work.start(everything(desk), captioner, replaces=False)
        assert begun.wait(60)
        with pytest.raises(RefusedError, match="captioning is in progress"):
            work.start(everything(desk), captioner, replaces=False)
        end()
        go_on.set()
        work.wait()
        assert work.shown.text == f"Captioning {reason}. The captions made by then are kept as drafts."
    with pytest.raises(RefusedError, match="a run is in progress"):
        work.start(everything(desk), captioner, replaces=False)


def test_an_image_that_cannot_be_read_is_counted_and_the_others_are_captioned(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, tmp_path: Path
) -> None:
    (tmp_path / "images" / "00.png").write_bytes(b"damaged")
    assert "1 caption made." in (text := caption(work, desk, captioner)) and "1 image could not be read." in text


def test_weights_in_the_old_format_are_converted_once_and_say_the_same(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ed2.app.local_models.MODELS_DIR", tmp_path / "converted")
    caption(work, desk, captioner)
    found = drafts(desk)
    desk.discard_proposed()
    caption(work, desk, make_captioner(tmp_path / "old", is_pickled=True))
    assert drafts(desk) == found and len(list((tmp_path / "converted").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "clip"}, "blip is needed"),
        ({"auto_map": {"AutoModel": "owner/code--file.Class"}}, "asks for code"),
        ({"vision_config": {"image_size": 10**9}}, "which no network has"),
        ({"vision_config": None}, "its image_size is"),
        (None, "not a model for captions"),
    ],
)
def test_another_model_is_refused_before_anything_is_loaded(
    change: dict[str, object] | None,
    words: str,
    work: AutoCaptioner,
    desk: DatasetDesk,
    captioner: Path,
    tmp_path: Path,
) -> None:
    model = shutil.copytree(captioner, tmp_path / "model")
    config = model / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}) if change else "[]")
    with pytest.raises(ModelError, match=words):
        work.start(everything(desk), model, replaces=False)


def test_weights_of_another_model_are_the_result_and_free_the_button(
    work: AutoCaptioner, desk: DatasetDesk, captioner: Path, sd1: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(captioner, tmp_path / "model")
    shutil.copyfile(sd1 / "unet" / "diffusion_pytorch_model.safetensors", model / "model.safetensors")
    for _ in range(2):
        work.start(everything(desk), model, replaces=False)
        work.wait()
        assert work.shown.state == "failed" and "of its tensors are missing" in work.shown.text


def test_the_download_takes_what_captioning_needs_and_says_what_it_is(captioner: Path, tmp_path: Path) -> None:
    more = {"README.md": b"", "tf_model.h5": b"x", "pytorch_model.bin": b"x"}
    with serving(LocalHub(files=files_of(captioner) | more)) as hub:
        ran = download(hub, tmp_path, "owner/tiny", "--yes")
        assert ran.returncode == 0 and "This model captions images. Use it in the Dataset tab" in ran.stdout
        assert sorted(hub.fetched()) == ["config.json", "model.safetensors", "vocab.txt"]
