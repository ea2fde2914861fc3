"""Runs with cached latents: the same losses and bytes as without, whatever happens to the cache."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from ed2.app.images.scanning import scan_dataset
from ed2.checkpoint.identity import state_of
from ed2.data import cache
from ed2.events import Event, MetricsLogged, PhaseChanged, SamplesMade, StepDone, ValidationDone
from ed2.models.families.clip import EmbedsCache
from ed2.models.files.source import open_base
from ed2.registry import FAMILIES
from ed2.settings.files import with_defaults
from ed2.training.controls import Controls
from ed2.training.state import TrainState
from tests.checkpoint.crashing import in_child
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


@pytest.mark.gpu
def test_what_a_gpu_encoded_with_tf32_is_not_used_without_it(values: Values, tmp_path: Path) -> None:
    for number, tf32 in enumerate(("on", "off"), 1):
        train({**values, "cache_latents": True, "device": "cuda", "amp": False, "tf32": tf32})
        assert len(list((tmp_path / "cache").glob("latents-*"))) == number


def test_a_pass_can_be_paused_and_stopped_and_what_is_done_is_kept(values: Values, tmp_path: Path) -> None:
    phases, controls = list[str](), Controls()

    def interfere(event: Event) -> None:
        if isinstance(event, PhaseChanged):
            phases.append(event.phase)
            if phases[-1] == "paused":
                controls.resume()
            elif event.phase == "caching":
                controls.stop(2) if "paused" in phases else controls.pause()

    stopped = train({**values, "cache_latents": True}, observer=interfere, controls=controls)
    assert stopped.ended.phase == "stopped" and stopped.ended.step == 0
    assert phases[phases.index("caching") :][:4] == ["caching", "paused", "training", "caching"]
    (told,) = [event.detail for event in stopped.of(PhaseChanged) if "crops of" in event.detail]
    assert told.startswith("up to 28 crops of 7 images, 229.4 kB in ")  # before their content is known
    assert len(list((tmp_path / "cache").glob("latents-*/*.safetensors"))) == 1


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
    prompts = {"cfgs": [4], "num_inference_steps": 2, "samples": [{"prompt": "an image"}]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    values |= {
        "resume_ckpt": str(request.getfixturevalue(family)),
        "method": method,
        "disable_textenc_training": True,
        "sample_prompts": str(tmp_path / "prompts.json"),
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_killed_pass_goes_on_and_a_damaged_image_stays_out_after_a_kill_in_training(
    values: Values, tmp_path: Path
) -> None:
    """The image is damaged behind the back of the index, so that only the pass finds it."""
    folder = make_images(tmp_path / "more", [(64, 64)] * 8)
    values |= {"data_root": [str(folder)], "cache_latents": True, "cache_variants": 1, "max_epochs": 3}
    values |= {"save_every_n_epochs": 1, "ckpt_every_n_minutes": 0.0, "lr_scheduler": "linear"}
    scan_dataset(with_defaults(values))
    damage_unnoticed(folder / "02.png")
    whole = train(values)
    assert (whole.ended.left_out, whole.ended.step) == (1, 4 + 4 + 4)
    assert TrainState.from_dict(state_of(whole.checkpoint)["state"]).lost == {"0/02.png": 0}
    seen = [event.images for event in whole.of(StepDone)]
    assert sum(seen) == 3 * 7 and seen.count(1) == 3

    values |= {"project_name": "killed", "cache_dir": str(tmp_path / "other")}
    killed(values, at_row=3)
    assert len(list((tmp_path / "other").glob("latents-*/*.safetensors"))) == 3
    killed(values, at_step=11)
    resumed = train({**values, "resume_ckpt": "findlast", "project_name": "killed"})
    assert "found damaged earlier in this run" in said(resumed)
    assert resumed.of(StepDone)[0].step in (5, 9)
    assert not differing(whole.checkpoint, resumed.checkpoint)


def damage_unnoticed(image: Path) -> None:
    status, content = image.stat(), bytearray(image.read_bytes())
    content[len(content) // 2] ^= 255
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))


def killed(values: Values, *, at_row: int = 0, at_step: int = 0) -> None:
    """Run in a child that is killed with -9 once it has cached so many rows, or after a step."""

    def die_in_time() -> None:
        rows, add = itertools.count(1), cache.TensorCache.add
        cache.SHARD_SECONDS = 0.0  # a shard for each row

        def add_or_die(self: cache.TensorCache, key: bytes, row: cache.Row) -> None:
            add(self, key, row)
            if next(rows) == at_row:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(event: Event) -> None:
            if isinstance(event, StepDone) and event.step == at_step:
                os.kill(os.getpid(), signal.SIGKILL)

        cache.TensorCache.add = add_or_die  # type: ignore[method-assign]
        train(values, observer=watch)

    assert in_child(die_in_time) == -signal.SIGKILL
