"""A LoRA from the first step to a file that other programs apply, and back from its checkpoint."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ed2.__main__ import main
from ed2.app.checks.check import run_check
from ed2.app.run_settings import effective_settings
from ed2.checkpoint.resume import restore_adapters
from ed2.errors import ModelError, SettingsError
from ed2.events import Warned
from ed2.models.base import DiffusionModel
from ed2.models.files.lora_base import LORA_FILE
from ed2.models.files.source import open_base
from ed2.models.files.tokens import token_counter
from ed2.models.lora.adapter import AdapterOptions, add_adapter
from ed2.registry import FAMILIES
from tests.runs import Values, differing, train
from tests.tiny import make_images
from tests.unchanged import unchanged

RANK, ALPHA = 3, 6.0
PIPELINES: dict[str, Any] = {"sdxl": StableDiffusionXLPipeline}


@pytest.fixture
def lora(tmp_path: Path) -> Values:
    """The settings of a LoRA of four steps, without its base model."""
    return {
        "method": "lora",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lr": 1e-2,
        "data_root": [str(make_images(tmp_path / "images", [(64, 64)] * 4))],
        "resolution": 64,
        "batch_size": 2,
        "max_epochs": 2,
        "sample_prompts": "",
        "logdir": str(tmp_path / "logs"),
        "save_ckpt_dir": str(tmp_path / "files"),
        "export_dtype": "fp32",
        "keep_last": 9,
        "ckpt_every_n_minutes": 0,
        "save_every_n_epochs": 1,
        "seed": 3,
    }


def model_with(checkpoint: Path, base: Path, layers: str, *, dora: bool = False) -> DiffusionModel:
    """The base model with the adapters of a checkpoint, as they were trained."""
    source = open_base(base, {})
    options = AdapterOptions(RANK, ALPHA, layers, seed=0, dora=dora)
    trained = [part for part in source.dtypes if part != "vae"]
    model: DiffusionModel = FAMILIES.load(source.family)(
        source,
        trained=trained,
        device=torch.device("cpu"),
        frozen_dtype=torch.float32,
        adapt=partial(add_adapter, options=options),
    )
    restore_adapters(model, checkpoint)
    return model


@torch.no_grad()
def predictions(networks: dict[str, Any]) -> list[Tensor]:
    """What the networks give for fixed inputs."""
    for network in networks.values():
        network.eval()
    tokens = torch.arange(77)[None]
    encoders = [networks[name] for name in ("text_encoder", "text_encoder_2") if name in networks]
    hidden = torch.cat([encoder(tokens, output_hidden_states=True).hidden_states[-1] for encoder in encoders], dim=-1)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    added = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
    return [hidden, networks["unet"](latents, 500, hidden, added_cond_kwargs=added).sample]


@pytest.mark.parametrize(
    ("family", "layers"), [("sd1", "all"), ("sd1", "linear"), ("sd2", "attention"), ("sdxl", "all")]
)
def test_diffusers_applies_the_file_as_it_was_trained(
    family: str, layers: str, lora: Values, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(family)
    with unchanged(base):
        run = train({**lora, "resume_ckpt": str(base), "lora_layers": layers, "max_epochs": 1})
    assert not [warned.text for warned in run.of(Warned)]
    assert sorted(path.name for path in run.checkpoint.iterdir()) == [
        "base.json",
        "manifest.json",
        LORA_FILE,
        "training_state",
    ]
    check = run_check({"resume_ckpt": str(run.checkpoint)}, None, quiet=True)
    assert check.count_tokens(["a photo"]) == token_counter(base)(["a photo"]), "by the tokenizer of the base model"
    model = model_with(run.checkpoint, base, layers)
    names = [part for part in model.parts if part != "vae"]
    trained = predictions({name: model.parts[name].module for name in names})
    kind = PIPELINES.get(family, StableDiffusionPipeline)
    for folder, name in ((tmp_path / "files", f"{run.checkpoint.name}.safetensors"), (run.checkpoint, LORA_FILE)):
        pipeline = kind.from_pretrained(base, local_files_only=True)
        before = predictions({name: getattr(pipeline, name) for name in names})
        pipeline.load_lora_weights(str(folder), weight_name=name)
        applied = predictions({name: getattr(pipeline, name) for name in names})
        for one, other, untrained in zip(applied, trained, before, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(one, untrained, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_dora_is_merged_and_loaded_from_its_folder_as_it_was_trained(
    family: str, lora: Values, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(family)
    values = {**lora, "lora_dora": True, "lora_layers": "all", "lora_dropout": 0.1}
    with unchanged(base):
        run = train({**values, "resume_ckpt": str(base), "max_epochs": 1})
    model = model_with(run.checkpoint, base, "all", dora=True)
    names = [part for part in model.parts if part != "vae"]
    trained = predictions({name: model.parts[name].module for name in names})
    single, kind = tmp_path / "files" / f"{run.checkpoint.name}.safetensors", PIPELINES.get(family)
    assert main(["merge", str(base), str(single), str(tmp_path / "merged")]) == 0
    kind = kind or StableDiffusionPipeline
    merged, loaded = (kind.from_pretrained(path, local_files_only=True) for path in (tmp_path / "merged", base))
    untrained = predictions({name: getattr(loaded, name) for name in names})
    loaded.load_lora_weights(str(run.checkpoint), weight_name=LORA_FILE)
    for pipeline in (merged, loaded):
        found = predictions({name: getattr(pipeline, name) for name in names})
        for one, other, before in zip(found, trained, untrained, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(one, before, atol=1e-4)
    lengths = {name: t for name, t in load_file(single).items() if name.endswith(".dora_scale")}
    for name, length in lengths.items():
        down = load_file(single)[name.replace("dora_scale", "lora_down.weight")]
        assert length.shape[1:] == (1,) * (down.ndim - 1)
    moved = [name for name, t in load_file(run.checkpoint / LORA_FILE).items() if name.endswith("vector.weight")]
    assert len(moved) == len(lengths) > 0


@pytest.mark.parametrize(
    "extra",
    [
        {"ema_decay_rate": 0.9, "ema_update_interval": 1, "gradient_checkpointing": True},
        {"ema_decay_rate": 0.9, "ema_update_interval": 1, "lora_dora": True, "lora_dropout": 0.3},
    ],
    ids=["checkpointing", "dora"],
)
def test_a_lora_resumes_to_the_same_bytes(sdxl: Path, lora: Values, extra: Values, tmp_path: Path) -> None:
    values = {**lora, **extra, "resume_ckpt": str(sdxl)}
    whole = train({**values, "logdir": str(tmp_path / "whole")})
    stopped = train(values, stop_at=1)
    resumed = train({"resume_ckpt": str(stopped.run_dir), "logdir": str(values["logdir"])})
    assert (stopped.ended.step, resumed.ended.step) == (1, 4)
    assert not differing(whole.checkpoint, resumed.checkpoint)
    if "lora_dropout" in extra:
        plain = train({**values, "lora_dropout": 0, "logdir": str(tmp_path / "plain")})
        assert differing(whole.checkpoint, plain.checkpoint)
    one, other = (load_file(run.checkpoint / LORA_FILE) for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_lora_needs_the_base_that_it_was_trained_on(sd1: Path, lora: Values, tmp_path: Path) -> None:
    base = shutil.copytree(sd1, tmp_path / "base")
    first = train({**lora, "resume_ckpt": str(base)}, stop_at=2)
    again = {"resume_ckpt": str(first.checkpoint), "logdir": str(lora["logdir"])}
    moved = base.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"(?s)its base model .*base is not there.*--lora_base"):
        train(again)
    resumed = train({**again, "lora_base": str(moved)})
    assert resumed.ended.step == 4
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="its weights differ"):
        train({**again, "lora_base": str(moved)})


def test_what_a_lora_cannot_change_is_refused(sd1: Path, lora: Values) -> None:
    first = train({**lora, "resume_ckpt": str(sd1)}, stop_at=2)
    again = {"resume_ckpt": str(first.checkpoint), "logdir": str(lora["logdir"])}
    with pytest.raises(SettingsError, match=r"(?s)lora_rank: the LoRA has 3, not 4.*lora_layers"):
        train({**again, "lora_rank": 4, "lora_layers": "all"})
    with pytest.raises(SettingsError, match="lora_dora: the LoRA has False, not True"):
        train({**again, "lora_dora": True})
    with pytest.raises(ModelError, match="merge it with its base first"):
        train({**again, "method": "full"})


def test_a_new_run_may_start_with_the_weights_of_a_lora(sd1: Path, lora: Values, tmp_path: Path) -> None:
    first = train({**lora, "resume_ckpt": str(sd1)})
    values = {**lora, "resume_ckpt": str(first.checkpoint), "weights_only": True, "lr": 1e-9}
    second = train({**values, "logdir": str(tmp_path / "second")})
    assert second.ended.step == 4
    before, after = (load_file(run.checkpoint / LORA_FILE) for run in (first, second))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_lora_of_a_single_network_holds_only_that(sd1: Path, lora: Values) -> None:
    run = train({**lora, "resume_ckpt": str(sd1), "disable_textenc_training": True, "max_epochs": 1})
    assert {name.split(".")[0] for name in load_file(run.checkpoint / LORA_FILE)} == {"unet"}
    record = json.loads((run.checkpoint / "base.json").read_text())
    assert (record["family"], record["path"], record["rank"]) == ("sd1", str(sd1), RANK)


def test_a_single_file_says_what_web_uis_sort_by(sd1: Path, lora: Values, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((tmp_path / "images").glob("*.png"))):
        file.with_suffix(".txt").write_text("sks cat, red" if number else "sks cat, blue, blue")
    run = train({**lora, "resume_ckpt": str(sd1), "max_epochs": 1, "export_dtype": "fp16", "project_name": "cats"})
    with safe_open(tmp_path / "files" / f"{run.checkpoint.name}.safetensors", framework="pt") as file:
        told = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
        assert {file.get_tensor(name).shape for name in file.keys() if name.endswith(".alpha")} == {()}  # noqa: SIM118
    assert json.loads(told["ss_tag_frequency"]) == {"cats": {"sks cat": 4, "red": 3, "blue": 1}}
    version, dim = told["ss_base_model_version"], told["ss_network_dim"]
    assert (version, dim, told["ss_network_alpha"], told["ss_network_module"]) == ("sd_v1", "3", "6", "networks.lora")
    assert told["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_a_full_run_is_not_continued_as_a_lora_but_gives_its_weights(sd1: Path, lora: Values) -> None:
    full = train({**lora, "method": "full", "lr": 1e-6, "resume_ckpt": str(sd1), "max_epochs": 1})
    settings = effective_settings({**lora, "resume_ckpt": str(full.checkpoint)}, None)
    assert settings.checkpoint is None
    assert any("another method" in note for note in settings.notes)
