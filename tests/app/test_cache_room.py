"""The disk space of caches: said by a check, required by a start, and freed by a command."""

import os
import shutil
import time
from pathlib import Path

import pytest

from ed2.__main__ import main
from ed2.app.checks.space import cache_bytes, cache_lines, require_cache_room
from ed2.app.preflight import ModelSizes
from ed2.data.example import Example
from ed2.errors import SettingsError
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings

SIZES = ModelSizes("sd1", {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863})
IMAGES = [Example(Path(f"{n}.png"), 0, f"{n}.png", f"caption {n}", (512, 512), (512, 512)) for n in range(100)]


def settings(tmp_path: Path, **values: object) -> Settings:
    return with_defaults({"cache_dir": str(tmp_path / "cache"), "cache_latents": True, **values})


def test_a_check_says_what_the_caches_take(tmp_path: Path) -> None:
    latents = 100 * 4 * 2 * 4 * (4 * 64 * 64)
    assert cache_bytes(settings(tmp_path), SIZES, IMAGES) == latents
    frozen = settings(tmp_path, cache_text=True, disable_textenc_training=True, cache_variants=1)
    assert cache_bytes(frozen, SIZES, IMAGES) == latents / 4 + 101 * 77 * 768 * 4
    assert cache_bytes(settings(tmp_path, cache_latents=False, cache_text=True), SIZES, IMAGES) == 0
    (line,) = cache_lines(settings(tmp_path), SIZES, IMAGES)
    assert line.startswith(f"The cache of 100 images takes up to 52.4 MB in {tmp_path / 'cache'}; ")


def test_a_start_without_room_for_the_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=50 * 10**6))
    with pytest.raises(SettingsError, match=r"takes up to 52\.4 MB, and only 50\.0 MB is free .* Lower cache_variants"):
        require_cache_room(settings(tmp_path), SIZES, IMAGES)
    require_cache_room(settings(tmp_path, cache_variants=3), SIZES, IMAGES)
    shard = tmp_path / "cache" / "latents-0" / "0.safetensors"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(3 * 10**6))  # part of it is there already
    require_cache_room(settings(tmp_path), SIZES, IMAGES)


def test_old_shards_are_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (tmp_path / name / "0.safetensors" for name in ("latents-0", "text-0"))
    for shard, days in ((old, 40), (new, 0)):
        shard.parent.mkdir()
        shard.write_bytes(bytes(1000))
        (shard.parent / "about.json").write_text("{}")
        os.utime(shard, (time.time() - days * 86_400,) * 2)
    command = ["cache", "--cache_dir", str(tmp_path), "--older_than", "30"]
    assert main(command) == 0 and old.exists()
    assert "latents  1 file, 1.0 kB not used for 30 days\ntext     0 files" in capsys.readouterr().out
    assert main([*command, "--delete"]) == 0
    assert not old.parent.exists() and new.exists()
    assert main(["cache", "--older_than", "x", "more"]) == 2
    told = capsys.readouterr().err
    assert "--older_than: it is not a number of days" in told and "more" in told
