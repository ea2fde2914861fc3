"""The shipped presets: each fits the card in its title, and those for a goal hold the suggested values."""

import json
import re
from pathlib import Path

import pytest

from ed2.app.command import main
from ed2.app.suggest.rules import suggest_values
from ed2.app.suggest.situation import situation_of
from ed2.settings.files import PROGRAM_DIR, read_preset, with_defaults
from tests.tiny import make_images

PRESETS = PROGRAM_DIR / "presets"
FOR_CARDS = sorted(path.stem for path in PRESETS.glob("*gb.json"))
GOALS = {"face-or-pet": 20, "style": 100, "thousands": 3000}
"""Goals, with the number of images that their presets are for."""
FOR_GOALS = [(name, count) for name in FOR_CARDS for goal, count in GOALS.items() if name.startswith(goal)]
SUGGESTED = ("batch_size", "max_epochs", "sample_steps", "save_every_n_epochs", "ckpt_every_n_minutes", "lr")


def card_gb(name: str) -> str:
    return re.findall(r"\d+(?=gb$)", name)[0]


def test_there_is_a_preset_for_each_goal_and_card() -> None:
    assert set(FOR_CARDS) >= {
        *("sd15-lora-8gb", "sd15-12gb", "sd15-16gb", "sd15-24gb", "sd21-768-12gb", "sd21-768-24gb"),
        *("sdxl-lora-12gb", "sdxl-lora-16gb", "sdxl-12gb", "sdxl-16gb", "sdxl-24gb", "sdxl-vpred-24gb"),
    }
    assert {name.rsplit("-", 2)[0] for name, _ in FOR_GOALS} == set(GOALS)


@pytest.mark.parametrize("name", FOR_CARDS)
def test_check_says_that_a_preset_fits_its_card(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_images(tmp_path / "cats", [(96, 96)] * 8)
    config = PRESETS / f"{name}.json"
    code = main(["--check", "--json", "--config", str(config), "--vram_gb", card_gb(name), "--data_root", str(images)])
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert (code, memory["verdict"], memory["card_gb"]) == (0, "fits", float(card_gb(name)))


@pytest.mark.parametrize(("name", "num_images"), FOR_GOALS)
def test_a_preset_for_a_goal_holds_what_is_suggested_for_so_many_images(name: str, num_images: int) -> None:
    values = dict(read_preset(PRESETS / f"{name}.json").values)
    settings = with_defaults({setting: value for setting, value in values.items() if setting not in SUGGESTED})
    situation = situation_of(settings, vram_gb=float(card_gb(name)), num_images=num_images)
    found = suggest_values(situation).settings.flat()
    preset = with_defaults(values).flat()
    assert {setting: preset[setting] for setting in SUGGESTED} == {setting: found[setting] for setting in SUGGESTED}
