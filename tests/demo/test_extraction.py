"""A LoRA out of a real fine-tune of the demo."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ed2.app.lora import LoraTarget, extract_lora
from ed2.models.families.facts import FACTS
from ed2.models.lora.arithmetic import RankOptions
from ed2.models.lora.file import read_lora
from ed2.models.lora.names import carrying, flat_name, kohya_names
from ed2.settings.files import PROGRAM_DIR, read_preset
from tests.runs import train

BASE = PROGRAM_DIR / "ed2" / "demo" / "base"
FULL_RANK = 1024
STEPS = 6


def weights_of(model: Path, part: str) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(model / FACTS["sd1"].part(part).file).items()}


@pytest.mark.slow
def test_at_full_rank_every_layer_of_a_real_fine_tune_comes_back(tmp_path: Path) -> None:
    preset = read_preset(PROGRAM_DIR / "presets" / "demo.json").values
    both = {"disable_textenc_training": False, "lr": 2e-3, "text_encoder_lr": 2e-3, "lr_scheduler": "constant"}
    folders = {"logdir": str(tmp_path), "sample_prompts": str(tmp_path / "none"), "no_save_ckpt": True}
    tuned = train({**preset, **both, **folders, "max_epochs": 1}, stop_at=STEPS).checkpoint
    lora = tmp_path / "own.safetensors"
    target = LoraTarget(lora, torch.float32)
    written = extract_lora(BASE, tuned, target, RankOptions(FULL_RANK), lambda *_: None)
    assert all(share.of_layers == pytest.approx(1) and share.in_layers > 0 for share in written.shares.values())

    layers, num_compared = read_lora(lora), 0
    for part in ("text_encoder", "unet"):
        before, after = weights_of(BASE, part), weights_of(tuned, part)
        carried = carrying({name: tuple(tensor.shape) for name, tensor in before.items()}, "all")
        names = kohya_names(FACTS["sd1"], FACTS["sd1"].part(part), carried)
        for module in carried:
            old, new = before[f"{module}.weight"], after[f"{module}.weight"]
            assert (new - old).abs().max() > 1e-3, f"{module} was trained"
            torch.testing.assert_close(old + layers[flat_name(names[module])].change(), new, rtol=0, atol=1e-5)
            num_compared += 1
    assert num_compared == len(layers) > 100
