"""A model with two text encoders: each network is trained at its own rate, frozen by its own switch, and resumed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.app.checks.check import run_check
from ed2.app.checks.start_checks import start_problems
from ed2.curve_names import LR_TEXT_ENCODER, LR_TEXT_ENCODER_2, LR_UNET
from ed2.errors import SettingsError
from ed2.events import MetricsLogged
from tests.runs import Trained, Values, differing, said, train

NETWORKS = ("unet", "text_encoder", "text_encoder_2")
PREFIX = "text_model."


@pytest.fixture
def values(values: Values, sdxl: Path) -> Values:
    return {**values, "resume_ckpt": str(sdxl), "max_epochs": 1}


def tensors_of(model: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a part by the names that all versions of transformers share."""
    (file,) = (model / part).glob("*.safetensors")
    return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(file).items()}


def moved(trained: Trained, base: Path, part: str) -> set[str]:
    """Names of the tensors of a part that training changed."""
    before, after = tensors_of(base, part), tensors_of(trained.checkpoint, part)
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name].to(tensor.dtype))}


@pytest.mark.parametrize(
    ("switches", "trained_parts"),
    [
        ({}, NETWORKS),
        ({"disable_textenc_training": True}, ("unet",)),
        ({"disable_textenc_2_training": True}, ("unet", "text_encoder")),
        ({"disable_textenc_training": True, "disable_textenc_2_training": False}, ("unet", "text_encoder_2")),
        ({"disable_unet_training": True}, ("text_encoder", "text_encoder_2")),
    ],
)
def test_only_the_networks_that_are_not_frozen_move_and_each_has_its_rate(
    values: Values, sdxl: Path, switches: Values, trained_parts: tuple[str, ...]
) -> None:
    rates = {"lr": 1e-3, "text_encoder_lr": 2e-4, "text_encoder_2_lr": 3e-5}
    trained = train({**values, **rates, **switches, "log_step": 1})
    assert trained.ended.phase == "done", trained.ended.reason
    assert tuple(part for part in NETWORKS if moved(trained, sdxl, part)) == trained_parts
    wanted = dict(zip(NETWORKS, (1e-3, 2e-4, 3e-5), strict=True))
    curves = dict(zip(NETWORKS, (LR_UNET, LR_TEXT_ENCODER, LR_TEXT_ENCODER_2), strict=True))
    logged = trained.of(MetricsLogged)[-1].values
    assert {part: logged[curve] for part, curve in curves.items() if curve in logged} == {
        part: wanted[part] for part in trained_parts
    }


def test_layers_are_frozen_in_both_text_encoders(values: Values, sdxl: Path) -> None:
    trained = train({**values, "lr": 1e-2, "unfreeze_last_n_layers": 2, "freeze_final_layer_norm": True})
    first, second = (moved(trained, sdxl, part) for part in NETWORKS[1:])
    assert {name.split(".")[2] for name in first} == {"0"}  # of two layers, the last is not used
    assert {name.split(".")[2] for name in second if name.startswith("encoder.")} == {"1", "2"}
    assert {name for name in second if not name.startswith("encoder.")} == {"text_projection.weight"}


def test_a_run_of_both_is_resumed_to_the_same_bytes(values: Values) -> None:
    own: Values = {"text_encoder_2_lr": 3e-5, "text_encoder_optimizer": "adafactor", "ema_decay_rate": 0.5}
    values = {**values, **own, "ema_update_interval": 1}
    straight, stopped = train(values), train(values, stop_at=2)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": values["logdir"]})
    assert resumed.run_dir == stopped.run_dir
    assert not differing(straight.checkpoint, resumed.checkpoint)
    assert "Optimizer for the second text encoder: adafactor, learning rate 3e-05" in said(straight)


def test_a_model_with_one_text_encoder_says_what_it_ignores(values: Values, sd1: Path) -> None:
    trained = train({**values, "resume_ckpt": str(sd1), "text_encoder_2_lr": 3e-5})
    assert "text_encoder_2_lr has no effect: SD 1.x models have one text encoder." in said(trained)


def test_training_only_a_part_that_the_model_lacks_is_refused_everywhere(values: Values, sd1: Path) -> None:
    switches = {"disable_unet_training": True, "disable_textenc_training": True, "disable_textenc_2_training": False}
    values = {**values, "resume_ckpt": str(sd1), **switches}
    what = "everything is frozen (UNet, text encoder), so nothing would be trained."
    with pytest.raises(SettingsError) as caught:
        train(values)
    found = [*caught.value.problems, *start_problems(values), *run_check(values, None, quiet=True).model_problems]
    assert [problem.what for problem in found] == [what] * 3
