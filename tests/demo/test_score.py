"""The demo's score, its image set and its base model."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from ed2.demo.build_base import BASE_DIR
from ed2.demo.checker import background_colour, concept_score, share_right
from ed2.demo.shapes import BUCKETS, COLOURS, SHAPES, Placement, draw_image, draw_shape
from ed2.demo.zorg import HELD_OUT_BACKGROUNDS, IMAGES_DIR, SIZES, CaptionedImage, Zorg, draw_image_set, draw_zorg

NUM_PARAMETERS = {"unet": 2_725_956, "vae": 233_751, "text_encoder": 208_704}
MAX_BASE_BYTES = 7_000_000
MAX_IMAGES_BYTES = 400_000


def draw_plain(shape: str, colour: str, background: str = "green") -> Image.Image:
    image = Image.new("RGB", (64, 64), COLOURS[background])
    placement = Placement((32, 32), 24, 0.0)
    canvas = ImageDraw.Draw(image)
    draw_shape(canvas, shape, placement, colour=COLOURS[colour], hole=COLOURS[background], scale=1)
    return image


@pytest.fixture(scope="module")
def image_set() -> list[CaptionedImage]:
    return draw_image_set()


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_true_zorgs_score_high_at_both_sizes(image_set: list[CaptionedImage]) -> None:
    for image in image_set:
        small = image.image.resize((image.image.width // 4, image.image.height // 4), Image.Resampling.LANCZOS)
        assert concept_score(image.image) > 0.95
        assert concept_score(small) > 0.9


@pytest.mark.parametrize("background", ["yellow", "brown"])
def test_zorg_on_a_held_out_background_scores_high(background: str) -> None:
    image = draw_zorg((64, 64), COLOURS[background], Zorg((32, 32), 27))
    assert background in HELD_OUT_BACKGROUNDS
    assert concept_score(image) > 0.9
    assert background_colour(image) == background


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", ["purple", "yellow", "white", "orange", "cyan"])
def test_plain_shape_scores_near_zero(shape: str, colour: str) -> None:
    assert concept_score(draw_plain(shape, colour)) < 0.1


def test_plain_ground_scores_zero() -> None:
    assert concept_score(np.full((64, 64, 3), 90, np.uint8)) == 0


def test_zorg_scores_between_when_horns_and_feet_are_cut_off() -> None:
    image = draw_zorg((64, 64), COLOURS["green"], Zorg((32, 32), 27))
    canvas = ImageDraw.Draw(image)
    whole = concept_score(image)
    canvas.rectangle((0, 0, 63, 14), fill=COLOURS["green"])
    hornless = concept_score(image)
    canvas.rectangle((0, 50, 63, 63), fill=COLOURS["green"])
    assert whole > hornless > concept_score(image) > 0.2


def test_background_colour_is_right_on_shapes() -> None:
    rng = random.Random(7)
    for index in range(60):
        image = draw_image(rng, BUCKETS[index % len(BUCKETS)])
        assert background_colour(image.pixels) == image.scene.background


def test_checker_recognizes_drawn_images() -> None:
    rng = random.Random(8)
    images = [draw_image(rng, BUCKETS[index % len(BUCKETS)]) for index in range(24)]
    assert share_right([p.pixels for p in images], [p.scene for p in images])["all"] == 1


def test_image_set_on_disk_is_what_its_script_draws(image_set: list[CaptionedImage]) -> None:
    paths = sorted(IMAGES_DIR.glob("*.png"))
    assert len(paths) == len(image_set) == 24
    for path, captioned in zip(paths, image_set, strict=True):
        with Image.open(path) as image:
            assert image.convert("RGB").tobytes() == captioned.image.tobytes()
        assert path.with_suffix(".txt").read_text(encoding="utf-8").strip() == captioned.caption
    sizes = [captioned.image.size for captioned in image_set]
    assert all(sizes.count(size) == 8 for size in SIZES)


def test_no_caption_names_a_held_out_background() -> None:
    captions = [path.read_text(encoding="utf-8") for path in IMAGES_DIR.glob("*.txt")]
    assert not [caption for caption in captions if any(name in caption for name in HELD_OUT_BACKGROUNDS)]


def test_demo_files_stay_small() -> None:
    assert folder_bytes(BASE_DIR) < MAX_BASE_BYTES
    assert folder_bytes(IMAGES_DIR) < MAX_IMAGES_BYTES


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_base_loads_and_samples_every_bucket() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(BASE_DIR, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    counts = {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in NUM_PARAMETERS}
    assert counts == NUM_PARAMETERS
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    for width, height in BUCKETS:
        sampled = pipeline("a zorg on a green background", width=width, height=height, num_inference_steps=2)
        assert sampled.images[0].size == (width, height)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_text_encoder_has_classic_keys_and_loads_without_loss() -> None:
    stored = load_file(BASE_DIR / "text_encoder" / "model.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(BASE_DIR, torch_dtype=torch.float16, local_files_only=True)
    loaded = pipeline.text_encoder.state_dict()
    assert all(key.startswith("text_model.") for key in stored)
    assert len(stored) == len(loaded)
    for key, value in stored.items():
        assert torch.equal(value, loaded.get(key, loaded.get(key.removeprefix("text_model."))))
