"""Every way to train, on a tiny model: a few steps, stopped and continued to the same bytes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.events import SamplesMade, StepDone
from ed2.registry import OPTIMIZERS
from ed2.sampling.job import SampleJob
from tests.runs import Values, differing, said, train, weights

STOP = 2

TOGETHER: dict[str, Values] = {
    **{f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS if name not in ("adamw", "adamw8bit")},
    "one for each network": {
        "optimizer": "schedulefree", "text_encoder_optimizer": "adafactor", "text_encoder_lr_scheduler": "polynomial",
        "text_encoder_betas": [0.5, 0.9], "text_encoder_weight_decay": 0.0, "ema_decay_rate": 0.5,
        "ema_update_interval": 1, "unfreeze_last_n_layers": 1,
    },
    "losses and noise": {
        "loss_type": "mse_huber", "min_snr_gamma": 5.0, "timestep_start": 100, "timestep_end": 900,
        "zero_frequency_noise_ratio": 0.02, "pyramid_noise_discount": 0.03, "embedding_perturbation": 1.0,
        "clip_skip": 2, "lr_scheduler": "linear", "lr_warmup_steps": 2,
    },
    "average and layout": {
        "ema_strength_target": 0.2, "ema_update_interval": 2, "channels_last": True, "attn_type": "slice",
        "gradient_checkpointing": True, "freeze_embeddings": True, "freeze_final_layer_norm": True,
        "loss_type": "huber_mse", "enable_zero_terminal_snr": True, "prediction_type": "v_prediction",
    },
    "frozen text encoder": {"disable_textenc_training": True, "clip_skip": 2, "loss_type": "huber"},
}  # fmt: skip


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "max_epochs": 1}


@pytest.fixture
def few_denoising_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in place of thirty: what is drawn does not matter here."""
    monkeypatch.setattr(SampleJob.__init__, "__kwdefaults__", {**SampleJob.__init__.__kwdefaults__, "num_steps": 2})


@pytest.mark.parametrize("options", TOGETHER.values(), ids=TOGETHER.keys())
def test_each_way_to_train_resumes_to_the_same_bytes(values: Values, options: Values) -> None:
    values = {**values, **options}
    straight = train(values)
    assert straight.ended.phase == "done", straight.ended.reason
    stopped = train(values, stop_at=STOP)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]})
    assert resumed.run_dir == stopped.run_dir
    assert resumed.of(StepDone)[0].step == STOP + 1
    assert not differing(straight.checkpoint, resumed.checkpoint)
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in weights(resumed.checkpoint).values())


def test_the_optimizer_of_each_network_is_reported_at_the_start(values: Values) -> None:
    trained = train({**values, "text_encoder_optimizer": "lion", "text_encoder_lr": 1e-5, "lr_scheduler": "cosine"})
    assert "Optimizer for the UNet: adamw, learning rate 0.001, cosine." in said(trained)
    assert "Optimizer for the text encoder: lion, learning rate 1e-05, cosine." in said(trained)


def test_frozen_layers_keep_their_bytes_and_get_no_optimizer_state(values: Values, sd1: Path) -> None:
    trained = train({**values, "unfreeze_last_n_layers": 1, "freeze_final_layer_norm": True})
    before = load_file(sd1 / "text_encoder" / "model.safetensors")
    after = load_file(trained.checkpoint / "text_encoder" / "model.safetensors")
    before = {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in before.items()}
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved
    assert all(name.startswith("text_model.encoder.layers.1.") for name in moved)
    state = load_file(trained.checkpoint / "training_state" / "optimizer-text_encoder.safetensors")
    numbers = sum(tensor.numel() for name, tensor in state.items() if name.endswith("exp_avg"))
    assert numbers == sum(before[name].numel() for name in before if name.startswith("text_model.encoder.layers.1."))


@pytest.mark.usefixtures("few_denoising_steps")
def test_the_ema_is_saved_next_to_the_weights_and_sampled_by_default(values: Values, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("an image  of number 3\n")
    values = {**values, "ema_decay_rate": 0.9, "ema_update_interval": 1, "sample_prompts": str(prompts)}
    both = train({**values, "ema_sample_nonema_model": True, "ema_sample_ema_model": True})
    average = both.checkpoint.with_name(f"{both.checkpoint.name}_ema")
    assert (tmp_path / "files" / f"{average.name}.safetensors").is_file()
    first, last = (event.samples for event in both.of(SamplesMade))
    assert [sample.index for sample in last] == [0, 1000]
    assert {sample.trained for sample in (*first, *last)} == {"0/03.png"}, "the image with this caption"
    assert first[0].path.read_bytes() == first[1].path.read_bytes()
    assert last[0].path.read_bytes() != last[1].path.read_bytes()
    name = "conv_in.weight"
    own, averaged = (
        load_file(f / "unet" / "diffusion_pytorch_model.safetensors")[name] for f in (both.checkpoint, average)
    )
    assert not torch.equal(own, averaged)
    state = load_file(both.checkpoint / "training_state" / "ema-unet.safetensors")
    assert torch.equal(state[name], averaged)
    begun = train(
        {**values, "ema_resume_model": "findlast", "ema_update_interval": 500, "ema_sample_nonema_model": True}
    )
    assert torch.equal(load_file(begun.checkpoint / "training_state" / "ema-unet.safetensors")[name], averaged)
    assert [len(event.samples) for event in begun.of(SamplesMade)] == [1, 1]


@pytest.mark.usefixtures("few_denoising_steps")
def test_zero_terminal_snr_is_in_the_saved_scheduler_and_samples_stay_finite(
    values: Values, sd2: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    own = {"enable_zero_terminal_snr": True, "sample_prompts": str(prompts)}
    trained = train({**values, **own, "resume_ckpt": str(sd2)})
    config = (trained.checkpoint / "scheduler" / "scheduler_config.json").read_text()
    assert '"rescale_betas_zero_snr": true' in config
    assert '"timestep_spacing": "trailing"' in config
    assert len(trained.of(SamplesMade)) == 2
    assert "samples get worse" not in said(trained)
    assert "samples get worse" in said(train({**values, "enable_zero_terminal_snr": True}))


def test_broken_xformers_is_replaced_and_reported(values: Values) -> None:
    trained = train({**values, "attn_type": "xformers"})
    assert trained.ended.phase == "done"
    assert "xformers cannot be used (it needs a GPU). Using PyTorch's own attention instead." in said(trained)


@pytest.mark.gpu
def test_xformers_is_either_used_or_its_failure_is_named() -> None:
    from ed2.models.compute import xformers_problem

    assert isinstance(xformers_problem(torch.device("cuda")), str)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"torch_compile": True},
        {"channels_last": True, "attn_type": "slice"},
        {"amp": False, "tf32": "on", "cudnn_benchmark": True},
    ],
)
def test_every_way_to_compute_trains_on_a_gpu(values: Values, options: Values) -> None:
    trained = train({**values, **options, "device": "cuda"})
    assert trained.ended.phase == "done"
