"""What a single file says of itself, in every place where other programs look."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ed2.__main__ import main
from ed2.checkpoint.export import Exporter
from ed2.models.files import source as source_module
from ed2.models.files.description import Description
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.header import read_header
from ed2.models.files.source import open_single_file
from tests.models.test_single_file import tensors_of, write
from tests.tiny import make_model

V, ZERO = "v_pred", "ztsnr"


@pytest.mark.parametrize(("prediction_type", "parameterization"), [("epsilon", None), ("v_prediction", "v")])
def test_the_yaml_says_what_an_sd2_file_predicts(prediction_type: str, parameterization: str | None) -> None:
    model = yaml.safe_load(Description(prediction_type).yaml_text("sd2"))["model"]
    params = model["params"]
    assert model["target"] == "ldm.models.diffusion.ddpm.LatentDiffusion"
    assert params.get("parameterization") == parameterization
    assert (params["linear_start"], params["linear_end"], params["use_ema"]) == (0.00085, 0.012, False)
    assert params["unet_config"]["params"]["channel_mult"] == [1, 2, 4, 4]
    assert params["unet_config"]["params"]["context_dim"] == 1024
    assert params["first_stage_config"]["params"]["ddconfig"]["attn_resolutions"] == []
    assert params["first_stage_config"]["params"]["lossconfig"]["target"] == "torch.nn.Identity"
    assert params["cond_stage_config"]["params"] == {"freeze": True, "layer": "penultimate"}


def test_an_sd1_file_has_a_yaml_only_where_it_predicts_v() -> None:
    assert not Description("epsilon").yaml_text("sd1")
    assert not Description("epsilon", is_zero_snr=True).yaml_text("sd1")
    params = yaml.safe_load(Description("v_prediction").yaml_text("sd1"))["model"]["params"]
    assert (params["parameterization"], params["unet_config"]["params"]["context_dim"]) == ("v", 768)
    assert params["cond_stage_config"]["target"].endswith("FrozenCLIPEmbedder")


def described_model(folder: Path, family: str, prediction_type: str, *, zero_snr: bool) -> Path:
    make_model(folder, family=family, prediction_type=prediction_type)
    if zero_snr:
        config = folder / SCHEDULER_CONFIG
        config.write_text(
            config.read_text().replace('"rescale_betas_zero_snr": false', '"rescale_betas_zero_snr": true')
        )
        assert 'zero_snr": true' in config.read_text()
    return folder


def marks_in(file: Path) -> set[str]:
    """The marks of a single file, which are empty tensors in both containers."""
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)["state_dict"]
    marks = {V, ZERO} & tensors.keys()
    assert all(tensors[name].numel() == 0 for name in marks)
    return marks


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("prediction_type", "zero_snr", "marks"),
    [
        ("v_prediction", False, {V}),
        ("v_prediction", True, {V, ZERO}),
        ("epsilon", True, {ZERO}),
        ("epsilon", False, set()),
    ],
)
def test_a_file_says_what_it_predicts_at_a_save_and_through_convert(
    family: str,
    prediction_type: str,
    zero_snr: bool,
    marks: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = described_model(tmp_path / "configs" / family, family, prediction_type, zero_snr=zero_snr)
    saved = Exporter(tmp_path / "saved", "run").write(folder, family, prediction_type)
    for name in ("one.safetensors", "one.ckpt"):
        assert main(["convert", str(folder), str(tmp_path / name)]) == 0
    for file in (saved, tmp_path / "one.safetensors", tmp_path / "one.ckpt"):
        assert marks_in(file) == marks
        beside = file.with_suffix(".yaml")
        assert beside.exists() == (family == "sd2" or (family == "sd1" and V in marks))
        if beside.exists():
            params = yaml.safe_load(beside.read_text())["model"]["params"]
            assert params.get("parameterization") == ("v" if V in marks else None)
    metadata = read_header(saved).metadata
    assert metadata["prediction_type"] == prediction_type
    assert metadata.get("zero_terminal_snr") == ("true" if zero_snr else None)
    monkeypatch.setattr(source_module, "CONFIGS", tmp_path / "configs")
    assert main(["convert", str(saved), str(tmp_path / "back")]) == 0
    back = Description.of_scheduler(open_single_file(saved, {}).config(SCHEDULER_CONFIG))
    assert back == Description(prediction_type, zero_snr)


@pytest.mark.parametrize("mark", [{ZERO: torch.empty(0)}, {"metadata": {"ss_zero_terminal_snr": "True"}}])
def test_zero_terminal_snr_is_read_from_files_of_other_programs(
    mark: dict[str, object], sd1: Path, tmp_path: Path
) -> None:
    metadata = mark.get("metadata", {})
    extra = {name: tensor for name, tensor in mark.items() if isinstance(tensor, torch.Tensor)}
    assert isinstance(metadata, dict)
    path = write(tmp_path / "model.safetensors", tensors_of(sd1, **extra), metadata)
    config = open_single_file(path, {}).config(SCHEDULER_CONFIG)
    assert (config["rescale_betas_zero_snr"], config["timestep_spacing"]) == (True, "trailing")


def test_a_prediction_given_to_convert_replaces_the_mark_of_the_file(
    sd1: Path, tiny_configs: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "v.safetensors", tensors_of(sd1, v_pred=torch.empty(0)))
    target = tmp_path / "noise.safetensors"
    assert main(["convert", str(source), str(target), "--prediction_type", "epsilon"]) == 0
    assert (marks_in(target), read_header(target).metadata["prediction_type"]) == (set(), "epsilon")
