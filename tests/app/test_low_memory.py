"""Whole runs with weights in bf16 and fused_backward: what they write, how they resume, and what they refuse."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.app.checks.start_checks import require_valid
from ed2.errors import SettingsError
from ed2.events import EpochEnded, RunStarted
from ed2.models.files.folder import open_folder
from ed2.settings.cli import parse
from ed2.training.optimizers import Optimizers
from tests.runs import Trained, Values, differing, train, weights

LOW = {"weights_dtype": "bf16", "fused_backward": True}
EMA = {"ema_decay_rate": 0.9, "ema_update_interval": 1}
SINGLE = "save_ckpt_dir"


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "batch_size": 4}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "lion8bit"])
def test_a_stopped_run_resumes_to_the_same_bytes(values: Values, optimizer: str) -> None:
    own = {"optimizer": optimizer, "lr_scheduler": "cosine", "text_encoder_lr": 2e-4, "clip_skip": 2}
    values = {**values, **LOW, **EMA, **own}
    straight, stopped = train(values), train(values, stop_at=2)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(values["logdir"])})
    assert resumed.run_dir == stopped.run_dir
    assert not differing(straight.checkpoint, resumed.checkpoint)


def test_a_checkpoint_holds_bf16_its_average_fp32_and_single_files_fp16(values: Values) -> None:
    trained = train({**values, **LOW, **EMA})
    tensors = weights(trained.checkpoint)
    unet = [t.dtype for name, t in tensors.items() if name.startswith("unet/")]
    assert set(unet) == {torch.bfloat16}
    state = {name: t.dtype for name, t in tensors.items() if name.startswith("training_state/")}
    assert torch.bfloat16 not in state.values()
    average = load_file(trained.checkpoint.with_name(trained.checkpoint.name + "_ema") / "unet" / UNET_FILE)
    assert {tensor.dtype for tensor in average.values()} == {torch.float32}
    files = sorted(Path(str(values[SINGLE])).glob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        assert {t.dtype for t in load_file(file).values() if t.is_floating_point()} == {torch.float16}
    vae = {name: t.dtype for name, t in tensors.items() if name.startswith("vae/")}
    assert set(vae.values()) == {torch.float32}  # a frozen part keeps the precision it had
    source = open_folder(trained.checkpoint)
    read = source.read("unet").state_dict()
    saved = load_file(trained.checkpoint / "unet" / UNET_FILE)
    assert all(torch.equal(read[name], tensor.float()) for name, tensor in saved.items())


UNET_FILE = "diffusion_pytorch_model.safetensors"


def epoch_losses(trained: Trained) -> torch.Tensor:
    return torch.tensor([event.loss for event in trained.of(EpochEnded)])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_losses_in_bf16_with_fused_backward_lie_within_the_spread_of_seeds(
    values: Values, family: str, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(family)
    # Clipping is the same: fused_backward clips each parameter by itself.
    values = {**values, "resume_ckpt": str(base), "max_epochs": 4, "no_save_ckpt": True, "clip_grad_norm": None}
    seeds = torch.stack([epoch_losses(train({**values, "seed": seed})) for seed in range(1, 5)])
    low = epoch_losses(train({**values, **LOW, "seed": 1}))
    assert low.shape == seeds[0].shape
    assert torch.all((low - seeds[0]).abs() < seeds.std(dim=0) / 4)
    assert not torch.equal(low, seeds[0])


def test_out_of_memory_within_a_fused_step_ends_the_run_at_its_last_checkpoint_and_names_settings(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_one, count = Optimizers.step_one, iter(range(1_000_000))

    def fail(self: Optimizers, *args: object) -> None:
        if next(count) == 1100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        step_one(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Optimizers, "step_one", fail)
    trained = train({**values, **LOW, "save_every_n_epochs": 1, "max_epochs": 4})
    assert trained.ended.phase == "failed"
    assert len(trained.of(RunStarted)) == 1  # it is not tried again
    assert "Out of memory while updating the weights." in trained.ended.reason
    assert "--batch_size" in trained.ended.reason and "--grad_accum" not in trained.ended.reason
    assert trained.checkpoint.name in trained.ended.reason
    assert not list((trained.run_dir / "ckpts").glob("errored-*"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fused_backward": True, "grad_accum": 2}, "grad_accum.*fused_backward cannot accumulate.*raise batch_size"),
        ({"fused_backward": True, "clip_grad_norm": 0.5}, "clip_grad_norm.*it is 0.5.*Leave it out"),
        ({"fused_backward": True, "clip_grad_norm": 1.0}, "clip_grad_norm.*it is 1.*Leave it out"),
        ({"fused_backward": True, "amp_dtype": "fp16"}, "amp_dtype.*it is fp16.*bf16"),
        ({"fused_backward": True, "optimizer": "prodigy"}, "prodigy.*adamw, adamw8bit, adafactor, lion8bit"),
        ({"weights_dtype": "bf16", "optimizer": "lion"}, "lion.*adamw, adamw8bit, adafactor, lion8bit"),
        ({"weights_dtype": "bf16", "text_encoder_optimizer": "schedulefree"}, "text_encoder_optimizer.*adafactor"),
        ({"weights_dtype": "bf16", "amp": False}, "weights_dtype.*amp"),
        ({"weights_dtype": "bf16", "amp_dtype": "fp16"}, "weights_dtype.*fp16"),
    ],
)
def test_what_low_memory_excludes_is_refused_with_the_way_out(values: Values, given: Values, told: str) -> None:
    flags = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in {**values, **given}.items()]
    flags = [flag for flag in flags if "data_root" not in flag and flag != "--amp=False"]
    flags += ["--data_root", *map(str, values["data_root"])]  # type: ignore[call-overload]
    flags += ["--no-amp"] if given.get("amp") is False else []
    with pytest.raises(SettingsError) as caught:
        require_valid(parse(flags))
    assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)


def test_clipping_that_is_turned_off_or_not_given_is_accepted(values: Values) -> None:
    for given in ({}, {"clip_grad_norm": None}):
        assert train({**values, **LOW, **given, "max_epochs": 1}).ended.phase == "done"
