"""The text that webuis need beside an SD2 file."""

import pytest

from ed2.errors import ModelError
from ed2.models.files.layout import yaml_beside


@pytest.mark.parametrize(("prediction_type", "parameterization"), [("epsilon", None), ("v_prediction", "v")])
def test_the_yaml_says_what_an_sd2_file_predicts(prediction_type: str, parameterization: str | None) -> None:
    yaml = pytest.importorskip("yaml")
    model = yaml.safe_load(yaml_beside("sd2", prediction_type))["model"]
    params = model["params"]
    assert model["target"] == "ldm.models.diffusion.ddpm.LatentDiffusion"
    assert params.get("parameterization") == parameterization
    assert (params["linear_start"], params["linear_end"], params["use_ema"]) == (0.00085, 0.012, False)
    assert params["unet_config"]["params"]["channel_mult"] == [1, 2, 4, 4]
    assert params["unet_config"]["params"]["context_dim"] == 1024
    assert params["first_stage_config"]["params"]["ddconfig"]["attn_resolutions"] == []
    assert params["first_stage_config"]["params"]["lossconfig"]["target"] == "torch.nn.Identity"
    assert params["cond_stage_config"]["params"] == {"freeze": True, "layer": "penultimate"}


def test_the_yaml_rejects_other_predictions() -> None:
    with pytest.raises(ModelError, match="must be epsilon or v_prediction"):
        yaml_beside("sd2", "sample")
