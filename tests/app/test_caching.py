"""Runs with cached latents: the same losses and bytes as without, whatever happens to the cache."""

from pathlib import Path

import pytest

from ed2.events import MetricsLogged
from tests.runs import Trained, Values, differing, said, train
from tests.tiny import make_images

SIZES = [(96, 96), (100, 90), (96, 64), (160, 90), (64, 96), (128, 128), (70, 110)]


@pytest.fixture
def values(values: Values, tmp_path: Path) -> Values:
    """Images of the size of their bucket, which have no jitter, so that a cached run sees the same crops."""
    folder = make_images(tmp_path / "images", [(64, 64)] * 4 + [(96, 32)] * 3)
    return {**values, "data_root": [str(folder)], "log_step": 1, "cache_dir": str(tmp_path / "cache")}


def losses(trained: Trained) -> list[float]:
    return [event.values["loss/log_step"] for event in trained.of(MetricsLogged)]


def test_one_variant_gives_the_losses_of_a_run_without_a_cache(values: Values) -> None:
    plain = train(values)
    cached = train({**values, "cache_latents": True, "cache_variants": 1})
    assert losses(cached) == losses(plain)
    assert not differing(plain.checkpoint, cached.checkpoint)


def test_a_resume_gives_the_same_bytes_with_the_cache_without_it_and_with_a_damaged_one(
    values: Values, tmp_path: Path
) -> None:
    values = {**values, "data_root": [str(make_images(tmp_path / "more", SIZES))], "cache_latents": True, "flip_p": 0.5}
    whole = train(values)
    for number, spoil in enumerate((lambda shards: None, delete, damage)):
        stopped = train({**values, "project_name": f"part{number}"}, stop_at=3)
        spoil(sorted((tmp_path / "cache").glob("latents-*/*.safetensors")))
        resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(values["logdir"])})
        assert not differing(whole.checkpoint, resumed.checkpoint)
        assert ("is damaged or gone and is made again" in said(resumed)) == (spoil is damage)


def delete(shards: list[Path]) -> None:
    for shard in shards:
        shard.unlink()


def damage(shards: list[Path]) -> None:
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
