"""What is said before a run of schedules that cancel it, and of values that do not suit the model."""

from pathlib import Path

import pytest

from ed2.app.checks.check import check_dataset, forecast, run_check
from ed2.app.checks.suitability import RunLength, rate_curves, unsuitable
from ed2.app.images.scanning import scan_dataset
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.models.families.facts import FACTS
from ed2.settings.checks import settings_from
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings
from tests.runs import Values, said, train
from tests.tiny import make_images

SD1 = FACTS["sd1"]
TINY = ModelSizes("sd1", {"unet": 2_000_000, "text_encoder": 200_000, "vae": 200_000})
REAL = model_sizes(settings_from({"resume_ckpt": ""}))


def notes(values: Values, *, steps: int = 3, images: int = 100, epochs: int = 20, sizes: ModelSizes = TINY) -> str:
    settings = settings_from(values)
    return "\n".join(map(str, unsuitable(settings, sizes, RunLength(steps, images, epochs))))


@pytest.mark.parametrize(
    ("values", "steps", "what"),
    [
        (
            {"lr_scheduler": "cosine", "lr_warmup_steps": 5000, "lr": 1e-6, "disable_textenc_training": True},
            3,
            "The warm-up takes 5,000 steps and the run has 3 steps, so the learning rate of the UNet rises from 2e-10 "
            "to 6e-10 at the last step.",
        ),
        (
            {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "lr_decay_steps": 2},
            6,
            "4 of 6 steps train nothing: the learning rate of the UNet rises to 1e-06 at step 2, then is 0 from step 3",
        ),
        ({"lr_scheduler": "linear", "lr_decay_steps": 10}, 100, "90 of 100 steps train nothing: the learning rate of"),
        ({"lr_warmup_steps": 100}, 100, "The warm-up takes 100 steps and the run has 100 steps"),
        (
            {"lr_scheduler": "constant", "text_encoder_lr_warmup_steps": 5000},
            50,
            "the learning rate of the text encoder rises from 1e-10 to 5e-09",
        ),
        (
            {"text_encoder_lr_scheduler": "polynomial", "text_encoder_lr_decay_steps": 4},
            8,
            "4 of 8 steps train nothing: the learning rate of the text encoder",
        ),
    ],
)
def test_a_schedule_that_cancels_the_training_is_reported(values: Values, steps: int, what: str) -> None:
    assert what in notes(values, steps=steps)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"lr_scheduler": "cosine"},
        {"lr_scheduler": "linear", "lr_warmup_steps": 10},
        {"lr_scheduler": "polynomial", "lr_decay_steps": 0},
        {"lr_warmup_steps": 1},
        {"disable_textenc_training": True, "text_encoder_lr_warmup_steps": 5000},
    ],
)
def test_usual_schedules_are_not_complained_of(values: Values) -> None:
    assert notes(values, steps=100, sizes=REAL) == ""


def test_the_fix_names_the_setting_that_holds() -> None:
    common = notes({"lr_warmup_steps": 5000}, steps=400).splitlines()
    assert [line.partition("Leave ")[2] for line in common] == ["lr_warmup_steps empty, or set it to at most 40."] * 2
    own = notes({"text_encoder_lr_warmup_steps": 5000}, steps=400)
    assert "Leave text_encoder_lr_warmup_steps empty" in own


def test_the_rate_over_the_run_is_reported_in_words() -> None:
    def told(steps: int = 1000, **values: object) -> str:
        return rate_curves(settings_from({"lr": 2e-6, **values}), SD1, steps)[0].course

    assert told() == "2e-06 throughout"
    assert told(lr_warmup_steps=10) == "rises to 2e-06 at step 10, then stays at 2e-06"
    assert told(lr_scheduler="cosine") == "rises to 2e-06 at step 20, then falls to 0 at the end"
    assert told(lr_scheduler="linear", lr_warmup_steps=0, lr_decay_steps=4000).endswith("to 1.5e-06 at the last step")
    assert "is 0 from step 501 on" in told(lr_scheduler="linear", lr_decay_steps=500)
    assert len(rate_curves(Settings().replaced(disable_unet_training=True), SD1, 9)) == 1


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"lr": 5e-4}, "A learning rate of 0.0005 for the UNet is far above the usual 1e-6 to 3e-6"),
        ({"text_encoder_lr": 1e-3}, "A learning rate of 0.001 for the text encoder is far above"),
        ({"lr": 1e-10}, "A learning rate of 1e-10 for the UNet is far below"),
        ({"resolution": 64}, "Resolution 64 is far below the 512 that SD 1.x models were made at"),
        ({"resolution": 1536}, "Resolution 1536 is far above the 512"),
        ({"method": "lora", "lora_dropout": 0.8}, "A lora_dropout of 0.8 hides 80% of each layer's inputs"),
    ],
)
def test_values_that_do_not_suit_a_real_model_are_reported_and_suit_a_tiny_one(values: Values, what: str) -> None:
    assert what in notes(values, steps=1000, sizes=REAL)
    assert notes(values, steps=1000) == ""


def test_a_rate_that_an_optimizer_finds_itself_is_not_judged() -> None:
    assert notes({"optimizer": "prodigy", "lr": 1.0}, steps=1000, sizes=REAL) == ""


def test_steps_and_time_far_from_the_usual_are_reported() -> None:
    told = notes({}, steps=300_000, images=2000, epochs=300, sizes=REAL)
    assert "300 epochs of 2,000 images are 300,000 steps, roughly 21 h to 83 h on one GPU" in told
    settings, length = Settings(), RunLength(300_000, 2000, 300, images_per_second=10.0)
    assert "about 17 h at the speed of the last run like it" in str(unsuitable(settings, REAL, length)[0])
    assert "hardly enough" in notes({}, steps=5, images=10, epochs=1, sizes=REAL)


def test_the_time_that_many_samples_take_is_reported(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n" * 300)
    told = notes({"sample_prompts": str(prompts)}, steps=1000, sizes=REAL)
    assert "256 samples take roughly 11 min to 43 min on one GPU, and are drawn 5 times in this run. Use" in told
    assert notes({"sample_prompts": str(prompts)}, steps=1000) == ""
    prompts.write_text("a cat\n" * 8)
    assert notes({"sample_prompts": str(prompts)}, steps=1000, sizes=REAL) == ""
    often = {"sample_prompts": str(prompts), "sample_steps": 5}
    assert "8 samples take roughly 20 s to 80 s on" in notes(often, steps=1000, sizes=REAL)
    assert "16 samples" in notes(
        {**often, "ema_decay_rate": 0.99, "ema_sample_nonema_model": True, "ema_sample_ema_model": True},
        steps=1000,
        sizes=REAL,
    )
    assert notes({"sample_prompts": "none"}, steps=1000, sizes=REAL) == ""


def test_check_says_what_of_a_prompt_file_is_not_used(values: Values, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n" * 300)
    found = run_check({**values, "sample_prompts": str(prompts)}, None, quiet=True)
    what = "prompts.txt: only the first 256 of its 300 prompts are used."
    assert what in [note["what"] for note in found.as_object()["notes"]] and what in found.as_text()


def test_check_form_and_start_tell_it_alike(values: Values, tmp_path: Path) -> None:
    own = {**values, "lr_scheduler": "cosine", "lr_warmup_steps": 5000, "max_epochs": 1}
    what = "The warm-up takes 5,000 steps and the run has"
    found = run_check(own, None, quiet=True)
    answer = found.as_object()
    assert any(note["path"] is None and note["what"].startswith(what) and note["fix"] for note in answer["notes"])
    assert what in found.as_text() and "Learning rate of the UNet: rises from" in found.as_text()
    settings = with_defaults(own)
    images = check_dataset(settings, scan_dataset(settings))
    assert any(what in line for line in forecast(settings, images).notes)
    assert what in said(train(own))


def test_check_tells_captions_that_are_too_long(values: Values, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "long", [(64, 64)] * 3)
    (folder / "01.txt").write_text("red " * 90)
    found = run_check({**values, "data_root": [str(folder)]}, None, quiet=True)
    told = [note for note in found.as_object()["notes"] if note["path"]]
    assert [note["path"] for note in told] == ["01.png"]
    assert told[0]["what"].startswith("the caption has ")
    assert told[0]["fix"].startswith("Shorten it, or raise caption_chunks")
    assert "1 caption has more than 75 tokens; the rest is ignored: 01.png (" in found.as_text()


def test_a_resolution_that_does_not_suit_the_family_is_reported() -> None:
    sdxl = model_sizes(settings_from({"resume_ckpt": "", "model_family": "sdxl"}))
    assert notes({"resolution": 1024}, sizes=sdxl) == ""
    found = notes({"resolution": 512}, sizes=sdxl)
    assert "Resolution 512 is far below the 1024 that SDXL models were made at" in found
    assert "Set resolution to 1024." in found


def test_each_text_encoder_is_named_with_the_setting_of_its_rate() -> None:
    sdxl = model_sizes(settings_from({"resume_ckpt": "", "model_family": "sdxl"}))
    found = notes({"resolution": 1024, "text_encoder_2_lr": 1e-3}, sizes=sdxl)
    assert "A learning rate of 0.001 for the second text encoder is far above" in found
    assert "Set text_encoder_2_lr to 5e-07" in found
    curve = rate_curves(settings_from({"text_encoder_2_lr": 1e-7}), FACTS["sdxl"], 9)[-1]
    assert (curve.title, curve.course) == ("second text encoder", "1e-07 throughout")


def test_the_rate_over_the_run_is_drawn_for_each_network_from_its_own_schedule() -> None:
    settings = settings_from({"lr": 2e-6, "lr_scheduler": "linear", "text_encoder_lr_scheduler": "constant"})
    unet, text = rate_curves(settings, SD1, 1001)
    assert (unet.title, text.title) == ("UNet", "text encoder")
    assert unet.points[0] == (0, 1e-7) and (20, 2e-6) in unet.points, "its warm-up, a fiftieth of the run"
    assert dict(unet.points)[510] == pytest.approx(1e-6, rel=0.01) and unet.points[-1][1] < 1e-8
    assert {rate for _, rate in text.points} == {1e-6}
    assert rate_curves(settings_from({"optimizer": "prodigy"}), SD1, 10)[0].points[0] == (0, 1.0)
    assert len(rate_curves(settings, SD1, 1)[0].points) == 1
