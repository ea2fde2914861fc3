"""The page's extraction of a LoRA: the right base, a free name, words for whatever keeps it from being written."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ed2.app.page.checkpoint_work import ExtractionStatus, LoraExtractor, LoraSource
from ed2.errors import ModelError, RefusedError, SettingsError
from ed2.models.files.lora_base import BASE_FILE, LORA_FILE
from ed2.models.lora.file import read_lora
from tests.runs import train
from tests.unchanged import unchanged


@pytest.fixture(scope="module")
def runs(sd1: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a base model, and one that began with the weights of that run."""
    folder = tmp_path_factory.mktemp("extraction")
    base = shutil.copytree(sd1, folder / "base")
    form = {"data_root": [str(images)], "resolution": 64, "batch_size": 8, "max_epochs": 1, "lr": 1e-3}
    form |= {"logdir": str(folder / "logs"), "save_ckpt_dir": str(folder / "files"), "export_dtype": "fp32"}
    form |= {"sample_steps": 1000, "sample_prompts": str(folder / "none"), "no_save_ckpt": True}
    first = train({**form, "project_name": "first", "resume_ckpt": str(base)})
    train({**form, "project_name": "second", "resume_ckpt": str(first.checkpoint), "weights_only": True})
    return folder


def checkpoint(runs: Path, project: str) -> Path:
    (found,) = runs.glob(f"logs/{project}_*/ckpts/[!.]*")
    return found


@pytest.fixture
def extractor() -> Iterator[LoraExtractor]:
    extractor = LoraExtractor(lambda: False, lambda: None)
    yield extractor
    extractor.close()


def extracted(extractor: LoraExtractor, source: LoraSource, rank: int = 4) -> ExtractionStatus:
    extractor.start(source, rank)
    extractor.wait()
    return extractor.shown


def test_each_extraction_has_a_file_of_its_own_beside_the_single_files(runs: Path, extractor: LoraExtractor) -> None:
    source = LoraSource.of(checkpoint(runs, "first"))
    name = f"{source.checkpoint.name}-lora-r4"
    with unchanged(source.base, source.checkpoint):
        first, second = extracted(extractor, source), extracted(extractor, source)
    assert (first.state, first.base) == ("done", runs / "base"), first
    assert [first.path, second.path] == [runs / "files" / f"{end}.safetensors" for end in (name, f"{name} (2)")]
    assert first.path and second.path and first.path.read_bytes() == second.path.read_bytes()
    assert {layer.rank for layer in read_lora(first.path).values()} == {4}
    with safe_open(first.path, framework="pt") as file:
        assert file.get_tensor(min(file.keys())).dtype == torch.float32  # as the single files of the run
    assert [share.split(":")[0] for share in first.shares] == ["UNet", "Text encoder"]
    assert all("of the change of its layers is kept" in share for share in first.shares)


def test_a_run_that_began_with_another_run_gives_a_lora_for_the_original_base(
    runs: Path, extractor: LoraExtractor
) -> None:
    source = LoraSource.of(checkpoint(runs, "second"))
    assert (source.base, source.note) == (runs / "base", "")
    assert extracted(extractor, source).state == "done"


def moved(source: Path, target: Path) -> Callable[[], object]:
    """Move a folder; gives what moves it back."""
    source.rename(target)
    return lambda: target.rename(source)


def test_a_base_that_is_gone_is_said_and_the_oldest_checkpoint_takes_its_place(runs: Path) -> None:
    move_back = moved(runs / "base", runs / "elsewhere")
    try:
        with pytest.raises(ModelError, match="base model of this run is missing") as refused:
            LoraSource.of(checkpoint(runs, "first"))
        assert str(runs / "base") in str(refused.value)
        source = LoraSource.of(checkpoint(runs, "second"))
        assert source.base == checkpoint(runs, "first") and str(runs / "base") in source.note
    finally:
        move_back()


def test_settings_are_read_from_the_checkpoint_when_the_run_has_lost_them(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkpoint(runs, "first").parents[1], tmp_path / "run")
    (copied / "settings.json").unlink()
    (found,) = (copied / "ckpts").glob("[!.]*")
    assert LoraSource.of(found).base == runs / "base"
    shutil.rmtree(found / "training_state")
    with pytest.raises(ModelError, match="does not say which it was"):
        LoraSource.of(found)
    (copied / "settings.json").write_text(json.dumps({"resume_ckpt": str(runs / "base"), "lr": "much"}))
    with pytest.raises(SettingsError, match="lr"):
        LoraSource.of(found)


def test_a_folder_on_a_drive_that_is_gone_is_not_made(runs: Path, tmp_path: Path, extractor: LoraExtractor) -> None:
    of_run = LoraSource.of(checkpoint(runs, "first"))
    source = LoraSource(of_run.base, of_run.checkpoint, tmp_path / "drive" / "files", "fp16")
    shown = extracted(extractor, source)
    assert shown.state == "failed" and "Create this folder, or connect its drive." in shown.text
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_refused(runs: Path, tmp_path: Path, extractor: LoraExtractor) -> None:
    source = LoraSource.of(checkpoint(runs, "first"))
    damaged = shutil.copytree(source.checkpoint, tmp_path / "ckpts" / source.checkpoint.name)
    file = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    shown = extracted(extractor, LoraSource(source.base, damaged, tmp_path, "fp16"))
    assert shown.state == "failed" and "is damaged" in shown.text and not list(tmp_path.glob("*.safetensors"))


def test_the_checkpoint_of_a_lora_is_refused(tmp_path: Path) -> None:
    for name in (BASE_FILE, LORA_FILE):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="is a LoRA already"):
        LoraSource.of(tmp_path)


def test_it_is_stopped_between_two_layers_and_writes_nothing(runs: Path, tmp_path: Path) -> None:
    of_run = LoraSource.of(checkpoint(runs, "first"))
    source = LoraSource(of_run.base, of_run.checkpoint, tmp_path, "fp16")
    begun, pressed = threading.Event(), threading.Event()

    def read_libraries() -> None:
        begun.set()
        pressed.wait(60)

    extractor = LoraExtractor(lambda: False, read_libraries)
    extractor.start(source, 4)
    assert begun.wait(60)
    with pytest.raises(RefusedError, match="an extraction is in progress"):
        extractor.start(source, 4)
    extractor.stop()
    pressed.set()
    extractor.wait()
    assert extractor.shown.state == "failed"
    assert extractor.shown.text == "The extraction was stopped. Nothing was written."
    assert not list(tmp_path.iterdir())


def test_none_is_extracted_during_a_run_and_a_start_ends_one(runs: Path, tmp_path: Path) -> None:
    of_run = LoraSource.of(checkpoint(runs, "first"))
    source = LoraSource(of_run.base, of_run.checkpoint, tmp_path, "fp16")
    is_training = threading.Event()
    extractor = LoraExtractor(is_training.is_set, is_training.set)  # a run starts while the libraries are read
    extractor.start(source, 4)
    extractor.wait()
    assert "because a run was started" in extractor.shown.text and not list(tmp_path.iterdir())
    with pytest.raises(RefusedError, match="a run is in progress"):
        extractor.start(source, 4)


@pytest.mark.parametrize("rank", [0, -1, 1025])
def test_a_rank_out_of_bounds_is_refused(runs: Path, rank: int, extractor: LoraExtractor) -> None:
    with pytest.raises(RefusedError, match="a whole number from 1 to 1,024"):
        extractor.start(LoraSource.of(checkpoint(runs, "first")), rank)
