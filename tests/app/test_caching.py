"""Runs with cached latents: the same losses and bytes as without, whatever happens to the cache."""

from pathlib import Path

import pytest
import torch

from ed2.events import MetricsLogged, SamplesMade, ValidationDone
from ed2.models.families.clip import EmbedsCache
from ed2.models.files.source import open_base
from ed2.registry import FAMILIES
from tests.runs import Trained, Values, differing, said, train
from tests.tiny import make_images

CACHED = {"cache_latents": True, "cache_text": True}
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("sd2", "lora"), ("sdxl", "full")])
def test_samples_validation_and_files_stay_as_they_are_while_the_cached_parts_are_away(
    values: Values, tmp_path: Path, request: pytest.FixtureRequest, family: str, method: str
) -> None:
    (tmp_path / "prompts.txt").write_text("an image")
    values |= {
        "resume_ckpt": str(request.getfixturevalue(family)),
        "method": method,
        "disable_textenc_training": True,
        "sample_prompts": str(tmp_path / "prompts.txt"),
        "sample_steps": 3,
        "val_split_mode": "automatic",
        "max_epochs": 1,
    }
    plain, cached = (train({**values, **extra}) for extra in ({}, {**CACHED, "cache_variants": 1}))
    assert losses(cached) == losses(plain)
    assert [event.values for event in cached.of(ValidationDone)] == [event.values for event in plain.of(ValidationDone)]
    assert samples(cached) == samples(plain)
    assert not differing(plain.checkpoint, cached.checkpoint)


def samples(trained: Trained) -> list[bytes]:
    return [sample.path.read_bytes() for made in trained.of(SamplesMade) for sample in made.samples]


def test_cached_parts_are_away_in_training_and_back_when_they_are_used(sd1: Path) -> None:
    source, cpu = open_base(sd1, {}), torch.device("cpu")
    model = FAMILIES.load("sd1")(source, trained=["unet"], device=cpu, frozen_dtype=torch.float32)
    pixels, before = torch.ones(1, 3, 32, 32), model.parts["vae"].saved()
    encoded, embeds = model.encode_pixels(pixels), model.encode_captions(["a"])
    model.cache = EmbedsCache()
    for name in ("vae", "text_encoder", "unet"):
        model.parts[name].leave()
    sizes = {name: sum(p.numel() for p in part.module.parameters()) for name, part in model.parts.items()}
    assert sizes["vae"] == sizes["text_encoder"] == 0 < sizes["unet"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.parts["vae"].saved().items())
    assert torch.equal(model.encode_pixels(pixels).mean, encoded.mean)
    assert torch.equal(model.encode_captions(["a"]).hidden, embeds.hidden)
