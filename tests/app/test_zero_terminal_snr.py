"""SDXL with v-prediction and zero terminal SNR: the base model says so in any way, and all give the same run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.app.checks.check import run_check
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.header import read_header
from ed2.models.files.source import open_base
from tests.models.test_single_file import tensors_of, write
from tests.runs import Trained, Values, differing, said, train
from tests.tiny import make_images

MARKS = ("v_pred", "ztsnr")
KOHYA = {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}
SPEC = {"modelspec.prediction_type": "v", "modelspec.zero_terminal_snr": "true"}
SETTINGS: Values = {"prediction_type": "v_prediction", "enable_zero_terminal_snr": True}
SCHEDULER = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.fixture
def values(tmp_path: Path, tiny_configs: Path) -> Values:
    """A run of one step with samples; single files are of the tiny size."""
    prompts = {"cfgs": [4], "num_inference_steps": 2, "samples": [{"prompt": "a cat"}]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    return {
        "data_root": [str(make_images(tmp_path / "images", [(64, 64)]))],
        "resolution": 64,
        "batch_size": 1,
        "max_epochs": 1,
        "lr": 1e-3,
        "sample_prompts": str(tmp_path / "prompts.json"),
        "logdir": str(tmp_path / "logs"),
        "save_ckpt_dir": str(tmp_path / "files"),
        "seed": 3,
    }


def samples(run: Trained) -> list[bytes]:
    return [file.read_bytes() for file in sorted(run.run_dir.glob("samples/gs*/00.png"))]


def test_every_way_to_say_it_gives_the_same_run_and_none_is_epsilon(values: Values, sdxl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl, tmp_path / "folder")
    config = json.loads((folder / SCHEDULER_CONFIG).read_text())
    (folder / SCHEDULER_CONFIG).write_text(json.dumps({**config, **SCHEDULER}))
    by_keys = write(tmp_path / "keys.safetensors", tensors_of(sdxl, **{mark: torch.empty(0) for mark in MARKS}))
    by_metadata = [write(tmp_path / f"{len(meta)}.safetensors", tensors_of(sdxl), meta) for meta in (KOHYA, SPEC)]
    plain = write(tmp_path / "plain.safetensors", tensors_of(sdxl))

    first, *others = [
        train({**values, "resume_ckpt": str(base), **own})
        for base, own in [(by_keys, {}), (folder, {}), (by_metadata[0], {}), (plain, SETTINGS)]
    ]
    assert len(samples(first)) == 2
    assert "The model is SDXL and predicts velocity (v-prediction) with zero terminal SNR." in said(first)
    for other in others:
        assert "does not say what it predicts" not in said(other)
        assert not differing(first.checkpoint, other.checkpoint)
        assert samples(first) == samples(other)
    spec, noise = (json.loads(open_base(base, {}).small_files[SCHEDULER_CONFIG]) for base in (by_metadata[1], plain))
    assert (spec["prediction_type"], spec["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert (noise["prediction_type"], noise["rescale_betas_zero_snr"]) == ("epsilon", False)

    saved = json.loads((first.checkpoint / SCHEDULER_CONFIG).read_text())
    wanted = {**SCHEDULER, "timestep_spacing": "trailing"}
    assert {name: saved[name] for name in wanted} == wanted
    (single,) = (tmp_path / "files").glob(f"{first.checkpoint.name}.safetensors")
    tensors, metadata = load_file(single), read_header(single).metadata
    assert all(tensors[mark].numel() == 0 for mark in MARKS)
    assert (metadata["modelspec.prediction_type"], metadata["zero_terminal_snr"]) == ("v", "true")


def test_an_sdxl_file_without_a_mark_is_trained_as_epsilon(values: Values, sdxl: Path, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.safetensors", tensors_of(sdxl))
    from_file, from_folder = (train({**values, "resume_ckpt": str(base)}) for base in (plain, sdxl))
    assumed = "plain.safetensors does not say what it predicts, so epsilon is assumed: if it predicts velocity, set"
    assert assumed in said(from_file)
    assert assumed in run_check({**values, "resume_ckpt": str(plain)}, None, quiet=True).as_text()
    assert "The model is SDXL and predicts noise (epsilon).\n" in said(from_folder)
    assert not differing(from_file.checkpoint, from_folder.checkpoint)
    assert samples(from_file) == samples(from_folder)
    (single,) = (tmp_path / "files").glob(f"{from_file.checkpoint.name}.safetensors")
    assert not read_header(single).shapes.keys() & set(MARKS)
