"""Whether the checkpoints of a run find room on the disk, known before it starts."""

import shutil
from pathlib import Path

import pytest

from ed2.app.checks.space import checkpoint_size, disk_lines, require_room, space_notes
from ed2.app.checks.start_checks import start_problems
from ed2.app.preflight import ModelSizes
from ed2.checkpoint import room
from ed2.errors import CheckpointError, SettingsError
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings

SIZES = ModelSizes("sd1", {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863})
GB = 10**9


def free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: real(path)._replace(free=num_bytes))


def settings(tmp_path: Path, **values: object) -> Settings:
    own = {"optimizer": "adamw", "logdir": str(tmp_path), "save_ckpt_dir": str(tmp_path / "single")}
    return with_defaults({**own, **values})


def test_a_start_without_room_for_one_checkpoint_is_refused_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = checkpoint_size(settings(tmp_path), SIZES)
    assert (one.model, one.state, one.single) == pytest.approx((4.1e9, 7.86e9, 2.13e9), rel=0.01)
    free(monkeypatch, 14 * GB)
    with pytest.raises(SettingsError, match=r"one checkpoint takes about 14\.\d GB in .*, but only 14\.0 GB is free"):
        require_room(settings(tmp_path), SIZES)
    require_room(settings(tmp_path, no_save_ckpt=True), SIZES)
    free(monkeypatch, 20 * GB)
    require_room(settings(tmp_path), SIZES)


def test_checkpoints_that_would_fill_the_disk_are_reported_and_keep_last_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 66 * GB)
    many = {"max_epochs": 100, "save_every_n_epochs": 10}
    (note,) = space_notes(settings(tmp_path, **many), SIZES)
    assert "will fill the disk: they take about 93." in note and "Set keep_last" in note
    assert note in disk_lines(settings(tmp_path, **many), SIZES)
    assert space_notes(settings(tmp_path, **many, keep_last=2), SIZES) == []
    (told,) = (line for line in disk_lines(settings(tmp_path, **many, keep_last=2), SIZES) if "will be written" in line)
    assert "10 checkpoints will be written and the newest 2 and the best kept: about 56." in told


def test_the_page_reports_a_full_disk_before_the_start(
    sd1: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"resume_ckpt": str(sd1), "data_root": [str(images)], "logdir": str(tmp_path), "no_save_ckpt": True}
    assert start_problems(values) == []
    free(monkeypatch, 1000)
    (problem,) = start_problems(values)
    assert (problem.path, "is free" in problem.what) == ("logdir", True)


def test_folders_on_one_disk_are_added_up_and_a_dead_drive_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 1000)
    wanted = {tmp_path / "a" / "b": 500, tmp_path / "c": 500}
    short = room.shortage(wanted)
    assert short and (short.required, short.free) == (1000, 1000)
    assert room.shortage({tmp_path: 900}) is None

    def dead(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room.shutil, "disk_usage", dead)
    with pytest.raises(CheckpointError, match="was not saved: the drive reports an error"):
        room.require_space("x", wanted)


def test_free_memory_is_limited_by_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("max", "current", "stat")]
    monkeypatch.setattr(room, "_CGROUPS", (tuple(map(str, files)),))
    unlimited = room.free_memory_bytes()
    for file, text in zip(files, ("3000000", "2500000", "anon 1\ninactive_file 500000\n"), strict=True):
        file.write_text(text)
    assert room.free_memory_bytes() == 1_000_000 < unlimited
    assert room.has_memory_for(700_000) and not room.has_memory_for(800_000)
    files[0].write_text("max\n")
    assert room.free_memory_bytes() > 1_000_000
