"""A run with a VAE in place of the base model's: trained, sampled, saved, exported and resumed with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.app import local_models
from ed2.app.checks.start_checks import base_problems
from ed2.app.preflight import model_sizes
from ed2.models.families.facts import VAE_PREFIX
from ed2.settings.files import with_defaults
from tests.hostile.models import VAE
from tests.models.test_single_file import tensors_of
from tests.runs import Values, differing, said, train
from tests.tiny import make_model


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """The folder of another model's VAE, in fp16."""
    model = make_model(tmp_path / "other", seed=5)
    save_file({key: t.half() for key, t in load_file(model / VAE).items()}, model / VAE, {"format": "pt"})
    return model / "vae"


@pytest.fixture
def values(values: Values, vae: Path, tmp_path: Path) -> Values:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"num_inference_steps": 2, "samples": [{"prompt": "a cat"}]}))
    return {**values, "vae": str(vae), "sample_prompts": str(prompts), "sample_steps": 1000}


def test_a_run_trains_samples_saves_and_exports_with_the_other_vae(values: Values, vae: Path, tmp_path: Path) -> None:
    run, plain = train(values), train({**values, "vae": None, "project_name": "plain"})
    given = load_file(vae / "diffusion_pytorch_model.safetensors")
    saved = load_file(run.checkpoint / VAE)
    assert saved.keys() == given.keys()
    assert all(saved[name].dtype is torch.float16 and torch.equal(saved[name], given[name]) for name in given)
    assert "unet/diffusion_pytorch_model/conv_in.weight" in differing(run.checkpoint, plain.checkpoint)
    (single,) = (tmp_path / "files").glob(f"{run.checkpoint.name}.safetensors")
    exported = {name: t for name, t in load_file(single).items() if name.startswith(VAE_PREFIX)}
    wanted = {name: t for name, t in tensors_of(run.checkpoint).items() if name.startswith(VAE_PREFIX)}
    assert exported.keys() == wanted.keys()
    assert all(torch.equal(exported[name], wanted[name].half()) for name in wanted)
    first, other = ((trained.run_dir / "samples/gs00000/00-cfg4.png").read_bytes() for trained in (run, plain))
    assert first != other


def test_a_resumed_run_has_its_vae_from_the_checkpoint(values: Values, vae: Path, tmp_path: Path) -> None:
    whole = train(values)
    stopped = train({**values, "logdir": str(tmp_path / "again")}, stop_at=3)
    shutil.rmtree(vae)  # the checkpoint holds it
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(tmp_path / "again")})
    assert resumed.run_dir == stopped.run_dir
    assert not differing(whole.checkpoint, resumed.checkpoint)


def test_another_vae_for_a_resumed_run_is_used_in_a_new_folder(values: Values, vae: Path, tmp_path: Path) -> None:
    stopped = train({**values, "vae": None}, stop_at=3)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "vae": str(vae), "logdir": values["logdir"]})
    assert resumed.run_dir != stopped.run_dir
    given = load_file(vae / "diffusion_pytorch_model.safetensors")
    assert torch.equal(load_file(resumed.checkpoint / VAE)["decoder.conv_in.weight"], given["decoder.conv_in.weight"])


def test_a_vae_in_pytorchs_own_format_is_converted_once_and_resumes_in_place(
    values: Values, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_models, "MODELS_DIR", tmp_path / "user" / "models")
    torch.save(load_file(vae / "diffusion_pytorch_model.safetensors"), tmp_path / "vae.pt")
    values = {**values, "vae": str(tmp_path / "vae.pt")}
    assert not base_problems(values)
    stopped = train(values, stop_at=3)
    assert "vae.pt was converted to" in said(stopped)
    given = {name: values[name] for name in ("vae", "logdir")}
    resumed = train({**given, "resume_ckpt": str(stopped.checkpoint)})
    assert resumed.run_dir == stopped.run_dir
    (converted,) = (tmp_path / "user" / "models").iterdir()
    assert converted.name.startswith("vae-")


def test_the_plan_counts_the_other_vae(values: Values, vae: Path, sd1: Path, tmp_path: Path) -> None:
    tensors = load_file(vae / "diffusion_pytorch_model.safetensors")
    base = shutil.copytree(sd1, tmp_path / "no vae", ignore=shutil.ignore_patterns("vae"))
    sizes = model_sizes(with_defaults({**values, "resume_ckpt": str(base)}))
    assert sizes.parameters["vae"] == sum(tensor.numel() for tensor in tensors.values())
    assert not sizes.problems
