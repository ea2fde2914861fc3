"""Which values are suggested for a GPU, a model, a method and a number of images."""

from dataclasses import replace
from pathlib import Path

import pytest

from ed2.app.checks.suitability import large_batch_note
from ed2.app.suggest.answer import suggest_for_command
from ed2.app.suggest.rules import SuggestedValues, repeats_notes, suggest_values
from ed2.app.suggest.situation import repeats_in, situation_of, subject_of
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from tests.tiny import make_images


def suggested(
    family: str = "sd1",
    vram_gb: float | None = 12,
    num_images: int | None = 40,
    given: tuple[str, ...] = (),
    **settings: object,
) -> SuggestedValues:
    values = with_defaults({"model_family": family, **settings})
    return suggest_values(situation_of(values, vram_gb=vram_gb, num_images=num_images, given=given))


def value(found: SuggestedValues, setting: str) -> object:
    return {suggestion.setting: suggestion.value for suggestion in found.values}.get(setting, "nothing")


@pytest.mark.parametrize(
    ("vram_gb", "resolution", "wanted"),
    [(12, 512, True), (12, 768, True), (24, 512, False), (24, 576, False), (24, 832, True), (24, 1024, True)],
)
def test_checkpointing_is_advised_by_card_and_resolution(vram_gb: float, resolution: int, wanted: bool) -> None:
    found = suggested(vram_gb=vram_gb, given=("resolution",), resolution=resolution)
    assert value(found, "gradient_checkpointing") is wanted
    assert value(found, "resolution") == "nothing"


def test_the_batch_is_at_most_a_tenth_of_the_images_and_what_fits() -> None:
    assert [value(suggested(num_images=n), "batch_size") for n in (5, 10, 30, 40)] == [1, 1, 3, 4]
    small, large = (value(suggested(vram_gb=vram_gb, num_images=1000), "batch_size") for vram_gb in (12, 24))
    assert (small, large) == (4, 8)
    (why,) = [found.why for found in suggested(num_images=1000).values if found.setting == "batch_size"]
    assert why == "the largest that fits the GPU"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("vram_gb", [8, 12, 16, 24, 48])
def test_what_is_suggested_fits_or_says_what_would_be_needed(family: str, method: str, vram_gb: float) -> None:
    values = with_defaults({"model_family": family, "method": method})
    situation = situation_of(values, vram_gb=vram_gb, num_images=300)
    found = suggest_values(situation)
    assert situation.search.fits(found.settings) == (not found.notes), found.notes


def test_no_learning_rate_is_suggested_for_a_model_of_another_size_and_the_notes_say_so() -> None:
    usual = situation_of(with_defaults({"model_family": "sd1"}), vram_gb=24, num_images=40)
    assert value(suggest_values(usual), "lr") != "nothing"
    found = suggest_values(replace(usual, has_real_unet=False))
    assert value(found, "lr") == "nothing"
    assert [note for note in found.notes if note.startswith("No learning rate is suggested")]


def test_steps_are_within_the_usual_range_for_so_many_images_which_is_stated() -> None:
    found = suggested(num_images=40)
    (epochs,) = [suggestion for suggestion in found.values if suggestion.setting == "max_epochs"]
    assert (epochs.value, epochs.why) == (60, "about 600 steps; 300 to 1,200 are usual for 40 images")
    visits = [n * int(str(value(suggested(num_images=n), "max_epochs"))) for n in (10, 40, 200, 1000, 20_000)]
    assert visits == sorted(visits)
    assert all(1000 <= number <= 100_000 for number in visits)


def test_the_learning_rate_follows_method_and_batch() -> None:
    rates = [value(suggested(num_images=n, vram_gb=24), "lr") for n in (20, 40, 80)]
    assert rates == [1e-6, 1.4e-6, 2e-6]
    assert value(suggested(num_images=20, method="lora"), "lr") == 1e-4
    assert value(suggested("sd2", 24, 60), "lr") == 8.7e-7  # halved at 768
    assert value(suggested(vram_gb=48, optimizer="prodigy"), "lr") == "nothing"


def test_a_batch_above_twelve_warns_about_the_learning_rate() -> None:
    settings = with_defaults({"batch_size": 12})
    assert large_batch_note(settings) is None
    warning = large_batch_note(settings.replaced(batch_size=13))
    assert warning is not None and "13 images per step" in warning.what and "lr" in warning.fix
    notes = suggested(vram_gb=80, given=("batch_size",), batch_size=16).notes
    assert [note for note in notes if "16 images per step" in note]


def test_samples_are_rarer_with_a_larger_batch_and_with_more_images() -> None:
    by_batch = [value(suggested(given=("batch_size",), batch_size=n, vram_gb=48), "sample_steps") for n in (2, 4, 8)]
    assert by_batch == [50, 70, 100]
    by_images = [value(suggested(given=("batch_size",), num_images=n), "sample_steps") for n in (40, 400, 4000)]
    assert by_images == [50, 100, 250]


def test_thousands_of_images_are_saved_by_minutes_and_few_by_epochs() -> None:
    few, many = suggested(num_images=40), suggested(num_images=3000)
    assert (value(few, "save_every_n_epochs"), value(few, "ckpt_every_n_minutes")) == (15, None)
    assert (value(many, "save_every_n_epochs"), value(many, "ckpt_every_n_minutes")) == (None, 60.0)


def test_the_resolution_is_that_of_the_base(sd2: Path) -> None:
    bases = {"epsilon": 512, "v_prediction": 768}
    found = {name: value(suggested("sd2", 24, prediction_type=name), "resolution") for name in bases}
    assert found == bases
    assert value(suggested(resume_ckpt="ed2/demo/base"), "resolution") == 64
    assert value(suggested(resume_ckpt="ed2/demo/base"), "lr") == "nothing"  # of no usual size


def test_the_project_name_is_offered_with_the_base_in_it(sd2: Path, tmp_path: Path) -> None:
    roots = [str(tmp_path / "50_Jets")]
    named = suggested("sd2", 24, data_root=roots, prediction_type="v_prediction")
    assert value(named, "project_name") == "jets_sd21768v"
    assert value(suggested(data_root=roots, resume_ckpt=str(sd2)), "project_name") == "jets_sd21768v"
    assert value(suggested(data_root=roots), "project_name") == "jets_sd15"
    assert value(suggested(data_root=roots, project_name="mine"), "project_name") == "nothing"
    assert subject_of(["/home/ada/My cats & dogs/"]) == "my_cats_dogs"


def test_repeats_of_other_trainers_are_understood(tmp_path: Path) -> None:
    for name in ("50_jets", "10_planes", "photos"):
        (tmp_path / name).mkdir()
    assert repeats_in([str(tmp_path)]) == {"10_planes": 10, "50_jets": 50}
    assert repeats_in([str(tmp_path / "50_jets")]) == {"50_jets": 50}
    (note,) = repeats_notes([str(tmp_path / "50_jets")])
    assert "50 repeats x 5 epochs are 250 epochs" in note
    assert "5 in 50_jets" in repeats_notes([str(tmp_path)])[1]
    gathered = gather({"repeats": 50, "max_epochs": 5}, None)
    assert gathered.values == {"max_epochs": 250}
    assert "50 repeats x 5 epochs are max_epochs 250" in gathered.notes[0]


def test_applied_values_need_no_further_change() -> None:
    found = suggested(num_images=40)
    changes = found.changes(with_defaults({"model_family": "sd1"}))
    assert changes["max_epochs"] == 60 and "resolution" not in changes
    assert found.changes(found.settings) == {}


def test_the_command_line_gives_the_same_values_for_what_was_not_given(tmp_path: Path) -> None:
    images = make_images(tmp_path / "cats", [(96, 96)] * 10)
    answer = suggest_for_command({"data_root": [str(images)], "lr": 2e-6}, None, vram_gb=12)
    values = {found["setting"]: found["value"] for found in answer.as_object()["values"]}
    assert values["batch_size"] == 1 and values["project_name"] == "cats_sd15"
    assert not {"lr", "data_root"} & values.keys()
    assert "Values to begin with, for 10 images, SD 1.x, a card with 12 GB:" in answer.as_text()
    without = suggest_for_command({}, None, vram_gb=12)
    assert "With --data_root IMAGES, epochs" in without.as_text()
