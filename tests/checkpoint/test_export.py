"""A single file is read again before it replaces anything."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.__main__ import main
from ed2.checkpoint import export
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.identity import RUN_KEY, writer_of
from ed2.disk import sweep_half_files, write_whole
from ed2.errors import CheckpointError
from ed2.models.compute import DTYPES
from ed2.models.files import tensor_file
from ed2.models.files.tensor_file import write_single_file
from tests.runs import Trained, Values, train


@pytest.fixture
def old(quick_path: Path) -> Path:
    """A single file that is there already."""
    path = quick_path / "model.safetensors"
    write_single_file(path, {"weight": torch.ones(3)})
    return path


def require_unchanged(old: Path) -> None:
    assert load_file(old)["weight"].tolist() == [1, 1, 1]
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_numbers_that_are_not_finite_or_too_large_for_the_format_replace_nothing(old: Path, suffix: str) -> None:
    path = old.with_suffix(suffix)
    with pytest.raises(CheckpointError, match="weight has numbers that are not finite"):
        write_single_file(path, {"weight": torch.tensor([1.0, float("nan")])})
    with pytest.raises(
        CheckpointError, match="weight has numbers too large for float16: set export_dtype to bf16 or fp32"
    ):
        write_single_file(path, {"weight": torch.tensor([1.0, 70_000.0])}, dtype=torch.float16)
    require_unchanged(old)


@pytest.mark.parametrize("fault", ["cut", "a tensor less", "another shape"])
def test_a_file_that_reads_back_differently_replaces_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    write, read = tensor_file.FORMATS[".safetensors"]

    def spoil(tensors, path, metadata, dtype):  # type: ignore[no-untyped-def]
        changed = {"weight": torch.ones(5)} if fault == "another shape" else dict(tensors)
        if fault == "a tensor less":
            changed.pop("other")
        write(changed, path, metadata, dtype)
        if fault == "cut":
            path.write_bytes(path.read_bytes()[:-4])

    monkeypatch.setitem(tensor_file.FORMATS, ".safetensors", (spoil, read))  # type: ignore[misc]
    with pytest.raises(CheckpointError, match="The previous file is unchanged"):
        write_single_file(old, {"weight": torch.ones(4), "other": torch.ones(1)})
    require_unchanged(old)


def test_a_single_file_equals_its_checkpoint(saved_run: Trained) -> None:
    single = saved_run.ended.single_file
    assert single
    held = load_file(single)["model.diffusion_model.time_embed.0.weight"]
    weights = load_file(saved_run.checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(held, weights["time_embedding.linear_1.weight"].half())


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_single_file_is_in_the_chosen_precision(short_values: Values, quick_path: Path, name: str) -> None:
    own = {"logdir": str(quick_path), "save_ckpt_dir": str(quick_path), "export_dtype": name, "max_epochs": 1}
    run = train({**short_values, **own})
    assert run.ended.single_file
    held = load_file(run.ended.single_file)
    assert {tensor.dtype for tensor in held.values()} == {DTYPES[name]}
    weights = load_file(run.checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    wanted = weights["time_embedding.linear_1.weight"].to(DTYPES[name])
    assert torch.equal(held["model.diffusion_model.time_embed.0.weight"], wanted)


def test_half_written_files_of_dead_programs_are_removed_and_others_stay(quick_path: Path) -> None:
    dead, alive, young, plain = (
        quick_path / name for name in (".tmp-4194300-a.safetensors", f".tmp-{os.getpid()}-b", ".tmp-4194300-c", "d")
    )
    for path in (dead, alive, young, plain):
        path.write_bytes(b"half")
    for path in (dead, alive, plain):
        os.utime(path, (time.time() - 600, time.time() - 600))
    sweep_half_files(quick_path)
    assert sorted(quick_path.iterdir()) == sorted([alive, young, plain])
    sweep_half_files(quick_path / "gone")


def test_a_small_file_that_cannot_be_written_leaves_the_old_one(quick_path: Path) -> None:
    target = quick_path / "model.yaml"
    write_whole(target, b"old")
    with pytest.raises(TypeError):
        write_whole(target, "no bytes")  # type: ignore[arg-type]
    assert (target.read_bytes(), list(quick_path.iterdir())) == (b"old", [target])


def test_a_file_of_another_run_keeps_its_name(saved_run: Trained, quick_path: Path) -> None:
    first = Exporter(quick_path, "first").write(saved_run.checkpoint, "sd1", "epsilon")
    again = Exporter(quick_path, "first").write(saved_run.checkpoint, "sd1", "epsilon")
    second = Exporter(quick_path, "second").write(saved_run.checkpoint, "sd1", "epsilon")
    assert (first, second.name) == (again, f"{first.stem} (2).safetensors")


def test_a_single_file_is_found_whatever_the_project_name(quick_path: Path) -> None:
    exporter, name = Exporter(quick_path, "run"), "my cat (v2)-ep00-gs00001"
    assert not exporter.find_file(name)
    write_single_file(quick_path / f"{name} (2).safetensors", {"weight": torch.ones(1)}, {RUN_KEY: "run"})
    assert exporter.find_file(name)
    assert not exporter.find_file("my cat")


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "a drive without"])
def test_two_runs_that_write_one_name_at_the_same_time_both_keep_their_file(
    saved_run: Trained, quick_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    both_written = threading.Barrier(2)

    def wait(path: Path) -> None:
        if path.suffix == ".safetensors":
            both_written.wait(60)

    monkeypatch.setattr(tensor_file, "to_disk", wait)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(Exporter(quick_path, run).write, saved_run.checkpoint, "sd1", "epsilon") for run in "ab"]
        files = [job.result() for job in jobs]
    stem = saved_run.checkpoint.name
    assert {file.name for file in files} == {f"{stem}.safetensors", f"{stem} (2).safetensors"}
    assert [writer_of(file) for file in files] == ["a", "b"]
    assert not list(quick_path.glob(".tmp-*"))


def refuse_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("name", ["one.safetensors", "one.ckpt"])
def test_convert_does_not_replace_a_file_that_appears_while_it_writes(
    sd1: Path, quick_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensor_file, "to_disk", lambda path: (quick_path / name).write_bytes(b"of another"))
    assert main(["convert", str(sd1), str(quick_path / name)]) == 1
    assert "another program has written it in the meantime" in capsys.readouterr().err
    assert (quick_path / name).read_bytes() == b"of another"


def test_a_yaml_of_another_model_keeps_its_name_and_content(saved_run: Trained, quick_path: Path) -> None:
    ckpt = Exporter(quick_path, "first", "ckpt").write(saved_run.checkpoint, "sd1", "v_prediction")
    described = ckpt.with_suffix(".yaml").read_bytes()
    second = Exporter(quick_path, "second").write(saved_run.checkpoint, "sd1", "epsilon")
    third = Exporter(quick_path, "third").write(saved_run.checkpoint, "sd1", "v_prediction")
    assert (second.name, third.name) == (f"{ckpt.stem} (2).safetensors", f"{ckpt.stem}.safetensors")
    assert ckpt.with_suffix(".yaml").read_bytes() == described
    assert not second.with_suffix(".yaml").exists()


def test_a_yaml_that_another_program_writes_during_a_save_stays(
    saved_run: Trained, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = quick_path / f"{saved_run.checkpoint.name}.yaml"
    place = export.rename_if_free

    def write_another(temporary: Path, target: Path) -> bool:
        beside.write_text("of another")
        return place(temporary, target)

    monkeypatch.setattr(export, "rename_if_free", write_another)
    file = Exporter(quick_path, "run").write(saved_run.checkpoint, "sd1", "v_prediction")
    assert beside.read_text() == "of another"
    assert sorted(path.name for path in quick_path.iterdir()) == sorted(
        [beside.name, file.name, file.with_suffix(".yaml").name]
    )
    assert file.stem == f"{beside.stem} (2)"
