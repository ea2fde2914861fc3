"""Single files as base models: told apart, read strictly, the same as diffusers reads them."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ed2.errors import ModelError, SettingsError
from ed2.models.families.facts import FACTS
from ed2.models.families.sd import load
from ed2.models.files.base_model import in_hub_cache
from ed2.models.files.folder import open_folder
from ed2.models.files.layout import single_file_tensors
from ed2.models.files.source import ModelFile, open_base, open_single_file, shipped_files
from ed2.models.process import DiffusionProcess
from tests.runs import train, weights
from tests.tiny import make_images

SD15_FILE = Path(__file__).parent / "data" / "sd15-single-file.json"
COUNTS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
}
LAST_BLOCK = "cond_stage_model.model.transformer.resblocks.2.ln_1.weight"
PROJECTION = "cond_stage_model.model.text_projection"


def tensors_of(folder: Path, **extra: Tensor) -> dict[str, Tensor]:
    """A tiny model as the tensors of a single file."""
    model = open_folder(folder)
    parts = {part: model.read(part).state_dict() for part in model.weights}
    return single_file_tensors(model.family, parts, extra=extra)


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_the_shipped_configs_have_the_published_numbers_of_weights(family: str) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    source = ModelFile(Path("none"), family, shipped_files(family), {})
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(source.config("unet/config.json")),
            "vae": AutoencoderKL.from_config(source.config("vae/config.json")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**source.config("text_encoder/config.json"))),
        }
    found = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    assert found == COUNTS[family]
    if family == "sd1":
        shapes = json.loads(SD15_FILE.read_text())
        parts = {part: network.state_dict() for part, network in networks.items()}
        ours = {name: list(tensor.shape) for name, tensor in single_file_tensors("sd1", parts).items()}
        listed = {name: list(shape) for name, shape in shapes.items()}
        assert ours == {name: shape for name, shape in listed.items() if name in ours}
        assert sum(map(math.prod, ours.values())) == sum(found.values())


@pytest.mark.parametrize(
    ("family", "name", "padding"),
    [("sd1", "tokenizer", 49407), ("sd2", "tokenizer", 0), ("sdxl", "tokenizer", 49407), ("sdxl", "tokenizer_2", 0)],
)
def test_the_shipped_tokenizer_gives_the_known_tokens(family: str, name: str, padding: int) -> None:
    tokenizer = ModelFile(Path("none"), family, shipped_files(family), {}).tokenizer(name)
    tokens = tokenizer(["a photo of a cat"], padding="max_length", max_length=77).input_ids[0]
    assert tokens == [49406, 320, 1125, 539, 320, 2368, 49407] + [padding] * 70
    assert len(tokenizer) == 49408
    long = tokenizer(["cat " * 90], truncation=True, max_length=77).input_ids[0]
    assert (len(long), long[-1]) == (77, 49407)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_single_file_has_the_weights_of_the_folder_it_was_made_from(
    family: str, tiny_configs: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(family)
    path = write(tiny_configs / "model.safetensors", tensors_of(folder), {"prediction_type": "v_prediction"})
    source = open_single_file(path, {})
    assert source.family == family
    model = open_folder(folder)
    for part in model.weights:
        theirs, ours = model.read(part).state_dict(), source.read(part).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    for name in FACTS[family].tokenizers:
        assert source.tokenizer(name)("a cat").input_ids == model.tokenizer(name)("a cat").input_ids
        assert source.tokenizer(name).pad_token_id == model.tokenizer(name).pad_token_id


def test_a_file_is_read_as_diffusers_reads_it(sd1: Path, tiny_configs: Path) -> None:
    from diffusers import UNet2DConditionModel

    path = write(tiny_configs / "model.safetensors", tensors_of(sd1))
    theirs = UNet2DConditionModel.from_single_file(
        str(path), config=str(sd1), subfolder="unet", local_files_only=True
    ).state_dict()
    ours = open_single_file(path, {}).read("unet").state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_run_from_a_single_file_equals_one_from_its_folder(sd1: Path, tiny_configs: Path, images: Path) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sd1))
    values: dict[str, object] = {
        "data_root": [str(images)],
        "resolution": 64,
        "max_epochs": 1,
        "logdir": str(tiny_configs / "logs"),
        "sample_prompts": str(tiny_configs / "none.txt"),
        "no_save_ckpt": True,
    }
    runs = [train({**values, "resume_ckpt": str(base)}) for base in (path, sd1)]
    assert [run.ended.phase for run in runs] == ["done", "done"]
    ours, theirs = (weights(run.checkpoint) for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_extra_tensors_of_an_sd2_file_are_exported_again(sd2: Path, tiny_configs: Path, tmp_path: Path) -> None:
    extra = {LAST_BLOCK: torch.arange(32.0), PROJECTION: torch.ones(32, 32)}
    path = write(tmp_path / "model.safetensors", tensors_of(sd2, **extra), {"modelspec.predict_key": "v"})
    images = make_images(tmp_path / "images", [(64, 64)])
    values: dict[str, object] = {
        "data_root": [str(images)],
        "resolution": 64,
        "max_epochs": 1,
        "logdir": str(tmp_path / "logs"),
        "sample_prompts": str(tmp_path / "none.txt"),
        "save_ckpt_dir": str(tmp_path),
    }
    first = train({**values, "resume_ckpt": str(path)})
    longer = train({"resume_ckpt": str(first.checkpoint), "max_epochs": 2, "logdir": values["logdir"]})
    for trained in (first, longer):
        assert trained.ended.single_file
        written = load_file(trained.ended.single_file)
        assert all(torch.equal(written[name].float(), tensor) for name, tensor in extra.items())


def test_every_tensor_of_an_sdxl_file_is_exported_again(sdxl: Path, tiny_configs: Path, tmp_path: Path) -> None:
    extra = {
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.5),
        "conditioner.embedders.0.transformer.text_projection.weight": torch.eye(3),
        "denoiser.sigmas": torch.rand(5),
    }
    copies = {"model_ema.decay": torch.ones(1)}
    path = write(tmp_path / "model.safetensors", tensors_of(sdxl, **extra, **copies))
    values: dict[str, object] = {
        "resume_ckpt": str(path),
        "data_root": [str(make_images(tmp_path / "images", [(64, 64)]))],
        "resolution": 64,
        "max_epochs": 1,
        "logdir": str(tmp_path / "logs"),
        "sample_prompts": str(tmp_path / "none.txt"),
        "save_ckpt_dir": str(tmp_path),
        "export_dtype": "fp32",
    }
    trained = train(values)
    assert trained.ended.single_file
    written, base = load_file(trained.ended.single_file), load_file(path)
    assert written.keys() == base.keys() - copies.keys(), "averages that are not trained on would be out of date"
    assert {name: tensor.shape for name, tensor in written.items()} == {name: base[name].shape for name in written}
    assert all(torch.equal(written[name], tensor) for name, tensor in extra.items())


@pytest.mark.parametrize(
    ("marks", "expected"),
    [((), ("epsilon", False)), (("v_pred",), ("v_prediction", False)), (("v_pred", "ztsnr"), ("v_prediction", True))],
)
def test_empty_tensors_say_what_an_sdxl_file_predicts(
    sdxl: Path, tiny_configs: Path, marks: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sdxl, **{mark: torch.empty(0) for mark in marks}))
    source = open_single_file(path, {})
    process = DiffusionProcess.from_config(source.config("scheduler/scheduler_config.json"))
    assert (process.prediction_type, process.is_zero_snr) == expected
    assert not source.extra().keys() & set(marks), "what a trained model says of itself depends on how it was trained"


@pytest.mark.parametrize(
    ("metadata", "yaml", "changes", "expected"),
    [
        ({"modelspec.predict_key": "v"}, "", {}, "v_prediction"),
        ({"prediction_type": "epsilon"}, "", {}, "epsilon"),
        ({"ss_v_parameterization": "True"}, "", {}, "v_prediction"),
        ({}, 'model:\n  params:\n    parameterization: "v"\n', {}, "v_prediction"),
        ({}, "model:\n  params:\n    timesteps: 1000\n", {}, "epsilon"),
        ({"prediction_type": "epsilon"}, "", {"prediction_type": "v_prediction"}, "v_prediction"),
    ],
)
def test_metadata_yaml_or_the_user_say_what_an_sd2_file_predicts(
    sd2: Path, tiny_configs: Path, metadata: dict[str, str], yaml: str, changes: dict[str, str], expected: str
) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sd2), metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    source = open_single_file(path, changes)
    assert source.config("scheduler/scheduler_config.json")["prediction_type"] == expected


@pytest.mark.parametrize(("scaling", "expected"), [("EpsScaling", "epsilon"), ("VScaling", "v_prediction")])
def test_a_yaml_of_web_uis_says_what_an_sdxl_file_predicts(
    sdxl: Path, tiny_configs: Path, scaling: str, expected: str
) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sdxl))
    target = f"sgm.modules.diffusionmodules.denoiser_scaling.{scaling}"
    denoiser = {"params": {"num_idx": 1000, "scaling_config": {"target": target}}}
    path.with_suffix(".yaml").write_text(json.dumps({"model": {"params": {"denoiser_config": denoiser}}}))
    source = open_single_file(path, {})
    assert source.config("scheduler/scheduler_config.json")["prediction_type"] == expected


def test_a_yaml_of_another_kind_of_noise_is_named(sdxl: Path, tiny_configs: Path) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sdxl))
    denoiser = {"params": {"scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.EDMScaling"}}}
    path.with_suffix(".yaml").write_text(json.dumps({"model": {"params": {"denoiser_config": denoiser}}}))
    with pytest.raises(ModelError, match=r"model\.yaml beside it does not describe a model that can be trained here"):
        open_single_file(path, {})


def test_an_sd2_file_that_does_not_say_what_it_predicts_is_an_error_with_the_setting(
    sd2: Path, tiny_configs: Path
) -> None:
    path = write(tiny_configs / "model.safetensors", tensors_of(sd2))
    with pytest.raises(ModelError, match=r"Set --prediction_type to v_prediction"):
        open_single_file(path, {})


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 4)}, "a LoRA"),
        ({"encoder.conv_in.weight": (4, 3, 3, 3)}, "only a VAE"),
        ({"emb_params": (2, 768)}, "a textual inversion embedding"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path: Path, tensors: dict[str, tuple[int, ...]], told: str) -> None:
    path = write(tmp_path / "file.safetensors", {name: torch.zeros(shape) for name, shape in tensors.items()})
    with pytest.raises(ModelError, match=f"this is {told}.* cannot be trained here"):
        open_base(path, {})


def test_weights_with_scales_of_their_own_are_not_read_as_if_they_had_none(sd1: Path, tmp_path: Path) -> None:
    scale = {"model.diffusion_model.out.2.scale_weight": torch.ones(1)}
    with pytest.raises(ModelError, match="8-bit numbers with separate scales"):
        open_base(write(tmp_path / "scaled.safetensors", {**tensors_of(sd1), **scale}), {})


def test_a_file_of_nothing_that_is_known_is_described_by_its_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "file.safetensors", {"something": torch.zeros(2)})
    with pytest.raises(ModelError, match="its tensors, such as something, are not those of any known kind of model"):
        open_base(path, {})


def test_incomplete_and_damaged_files_are_named(sd1: Path, tiny_configs: Path) -> None:
    tensors = tensors_of(sd1)
    lone = {name: tensor for name, tensor in tensors.items() if not name.startswith("first_stage_model.")}
    with pytest.raises(ModelError, match="it has no VAE"):
        open_base(write(tiny_configs / "lone.safetensors", lone), {})
    gone = {name: tensor for name, tensor in tensors.items() if "resblocks" not in name and "layers.1." not in name}
    source = open_base(write(tiny_configs / "gone.safetensors", gone), {})
    with pytest.raises(ModelError, match=r"text_encoder: its weights are not those of an SD 1.x model"):
        source.read("text_encoder")
    cut = tiny_configs / "cut.safetensors"
    cut.write_bytes((tiny_configs / "lone.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="is cut short"):
        open_base(cut, {})
    torch.save(tensors, tiny_configs / "model.ckpt")
    with pytest.raises(ModelError, match=r"in PyTorch's own format, which can run code, so it cannot be used directly"):
        open_base(tiny_configs / "model.ckpt", {})


def test_a_model_of_another_size_is_reported_with_the_folder_format_as_the_fix(sd1: Path, tmp_path: Path) -> None:
    source = open_base(write(tmp_path / "tiny.safetensors", tensors_of(sd1)), {})
    with pytest.raises(ModelError, match=r"not the size of SD 1\.x .*Use it as a diffusers folder"):
        source.read("unet")


def test_a_public_name_that_is_not_in_the_cache_says_what_to_do(tmp_path: Path, images: Path) -> None:
    assert in_hub_cache("nobody/no-such-model") is None
    with pytest.raises(SettingsError, match=r"a run downloads nothing.*./launch.sh download nobody/no-such-model"):
        train({"resume_ckpt": "nobody/no-such-model", "data_root": [str(images)], "logdir": str(tmp_path)})


def test_a_public_name_in_the_hub_cache_is_its_folder(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "models--owner--tiny"
    shutil.copytree(sd1, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = in_hub_cache("owner/tiny")
    assert folder == home / "snapshots" / "abc"
    model = load(open_base(folder, {}), trained=(), device=torch.device("cpu"), frozen_dtype=torch.float32)
    assert model.facts.name == "sd1"
