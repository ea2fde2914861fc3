"""The demo teaches: the embedded model learns the creature and keeps what it knew about backgrounds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ed2.__main__ import main
from ed2.demo.checker import background_colour, concept_score
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import SampleOptions, draw_samples
from ed2.settings.files import PROGRAM_DIR, read_preset
from tests.runs import Trained, train

SEEN = ("green", "blue", "red", "gray", "white", "pink", "black", "green")
HELD_OUT = ("yellow", "cyan", "brown", "purple", "yellow", "cyan", "brown", "purple")


def drawn(folder: Path, backgrounds: tuple[str, ...]) -> list[np.ndarray]:
    """One image a background, each from a seed of its own that is the same at every call."""
    model = load(open_folder(folder), trained=[], device=torch.device("cpu"), frozen_dtype=torch.float32)
    prompts = [
        Prompt(index, f"a zorg on a {colour} background", seed=index, size=(64, 64), cfgs=(4.0,))
        for index, colour in enumerate(backgrounds)
    ]
    options = SampleOptions(num_steps=20, batch_size=8)
    return [np.asarray(result.tiles[0]) for result in draw_samples(model, prompts, options)]


def assert_taught(model: Path) -> None:
    """The model draws the creature, which the base cannot, and still draws backgrounds that it was never shown on."""
    base = PROGRAM_DIR / "ed2" / "demo" / "base"
    before = [concept_score(image) for image in drawn(base, SEEN)]
    after = [concept_score(image) for image in drawn(model, SEEN)]
    assert sum(score > max(before) + 0.2 for score in after) >= 6, (before, after)
    kept = [background_colour(image) for image in drawn(model, HELD_OUT)]
    assert sum(now == asked for now, asked in zip(kept, HELD_OUT, strict=True)) >= 7, kept


def trained_by(preset: str, folder: Path, **changes: object) -> Trained:
    """A run of a preset of half its length, which is enough to see it."""
    values = read_preset(PROGRAM_DIR / "presets" / f"{preset}.json").values
    folders = {"logdir": str(folder), "sample_prompts": str(folder / "none"), "save_ckpt_dir": str(folder / "files")}
    return train({**values, "max_epochs": 50, **folders, **changes})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_teaches_its_creature_and_keeps_backgrounds_that_it_was_never_shown_on(tmp_path: Path) -> None:
    assert_taught(trained_by("demo", tmp_path, lr=7e-4, no_save_ckpt=True).checkpoint)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_demo_as_a_lora_teaches_as_much(tmp_path: Path) -> None:
    trained = trained_by("demo-lora", tmp_path, lr=4e-3)
    file = tmp_path / "files" / f"{trained.checkpoint.name}.safetensors"
    assert file.stat().st_size < 2e6
    assert main(["merge", str(PROGRAM_DIR / "ed2" / "demo" / "base"), str(file), str(tmp_path / "merged")]) == 0
    assert_taught(tmp_path / "merged")
