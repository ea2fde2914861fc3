"""Builds the demo's base model from scratch, stage by stage: `python -m ed2.demo.build_base --merges FILE`."""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo.checker import share_right
from ed2.demo.models import NOISE_SCHEDULE, SCALING_FACTOR, sampling_scheduler, tokenize
from ed2.demo.shapes import COLOURS, SHAPES, Scene, with_article
from ed2.demo.text import build_text_encoder, build_tokenizer
from ed2.demo.train_unet import UnetSettings, build_unet
from ed2.demo.train_vae import VaeSettings, build_vae, polish_decoder, to_pixels

BASE_DIR = Path(__file__).parent / "base"
NUM_TEXT_STEPS = 500
VAE = VaeSettings(num_steps=1900, learning_rate=1e-3, crop_share=0.87)
DECODER = VaeSettings(num_steps=2500, learning_rate=1e-3, crop_share=0.78, decoder_only=True, seed=2)
UNET = UnetSettings(num_steps=2773)
MIN_SHARE_RIGHT = 0.8
PROMPT_SEED = 5
CFG, NUM_SAMPLING_STEPS = 4.0, 20
CLASSES = {
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _write_json(content: dict[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_text_encoder(source_dir: Path, target_dir: Path) -> None:
    """Save the text encoder in half precision with the key names of Stable Diffusion 1."""
    CLIPTextModel.from_pretrained(source_dir, dtype=torch.float16).save_pretrained(target_dir)
    weights_path = target_dir / "model.safetensors"
    weights = load_file(weights_path)
    prefix = "text_model."
    classic = {key if key.startswith(prefix) else prefix + key: value for key, value in weights.items()}
    save_file(classic, weights_path, metadata={"format": "pt"})


def assemble(work_dir: Path, target_dir: Path) -> None:
    """Combine the stages' results into a half-precision diffusers folder in the Stable Diffusion 1 layout."""
    unet = UNet2DConditionModel.from_pretrained(work_dir / "unet", torch_dtype=torch.float16)
    unet.save_pretrained(target_dir / "unet")
    vae_dir = work_dir / "decoder" if (work_dir / "decoder").exists() else work_dir / "vae"
    AutoencoderKL.from_pretrained(vae_dir, torch_dtype=torch.float16).save_pretrained(target_dir / "vae")
    _save_text_encoder(work_dir / "text_encoder", target_dir / "text_encoder")
    shutil.copytree(work_dir / "tokenizer", target_dir / "tokenizer", dirs_exist_ok=True)
    PNDMScheduler(**_pndm_settings()).save_pretrained(target_dir / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        **CLASSES,
    }
    _write_json(index, target_dir / "model_index.json")
    _forget_paths(target_dir)


def _pndm_settings() -> dict[str, object]:
    """Return the noise schedule without the options that PNDM does not have."""
    known = {name: value for name, value in NOISE_SCHEDULE.items() if name != "clip_sample"}
    return {**known, "skip_prk_steps": True, "set_alpha_to_one": False}


def _forget_paths(target_dir: Path) -> None:
    """Remove local paths from the configs, and keep clip_sample as in Stable Diffusion 1."""
    for path in sorted(target_dir.glob("*/*config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if path.name == "scheduler_config.json":
            config["clip_sample"] = False
        _write_json(config, path)


@dataclass(frozen=True)
class Models:
    """All parts that an image needs."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def test_prompts(num_prompts: int = 60) -> tuple[list[str], list[Scene]]:
    """Return prompts for the checker, shapes and colours taken in turn, with what they ask for."""
    rng, scenes = random.Random(PROMPT_SEED), []
    for index in range(num_prompts):
        colour = list(COLOURS)[index % len(COLOURS)]
        background = rng.choice([name for name in COLOURS if name != colour])
        scenes.append(Scene(SHAPES[index % len(SHAPES)], colour, background))
    prompts = [
        f"{with_article(scene.colour)} {scene.shape} on {with_article(scene.background)} background" for scene in scenes
    ]
    return prompts, scenes


@torch.no_grad()
def sample(models: Models, prompts: list[str]) -> NDArray[np.uint8]:
    """Sample one image of 64 x 64 pixels per prompt with DDIM; returns uint8 (prompts, height, width, 3)."""
    scheduler = sampling_scheduler()
    scheduler.set_timesteps(NUM_SAMPLING_STEPS)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(len(prompts), 4, 16, 16, generator=generator)
    prompt_embeds = models.text_encoder(tokenize(models.tokenizer, [""] * len(prompts) + prompts))[0]
    for timestep in scheduler.timesteps:
        both = models.unet(torch.cat([latents, latents]), timestep, prompt_embeds).sample
        plain, guided = both.chunk(2)
        latents = scheduler.step(plain + CFG * (guided - plain), timestep, latents).prev_sample
    return to_pixels(models.vae.decode(latents / SCALING_FACTOR).sample)


def contact_sheet(images: NDArray[np.uint8]) -> Image.Image:
    """Return the images, all of one size, in rows of ten on white, twice as large."""
    columns, (height, width) = 10, images.shape[1:3]
    num_rows = -(-len(images) // columns)
    sheet = np.full((num_rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = image
    large = (2 * sheet.shape[1], 2 * sheet.shape[0])
    return Image.fromarray(sheet).resize(large, Image.Resampling.NEAREST)


def load_models(base_dir: Path) -> Models:
    """Load a base model in full precision."""
    return Models(
        CLIPTokenizer.from_pretrained(base_dir / "tokenizer"),
        CLIPTextModel.from_pretrained(base_dir / "text_encoder", dtype=torch.float32).eval(),
        UNet2DConditionModel.from_pretrained(base_dir / "unet", torch_dtype=torch.float32).eval(),
        AutoencoderKL.from_pretrained(base_dir / "vae", torch_dtype=torch.float32).eval(),
    )


def check(base_dir: Path, sheet_path: Path) -> dict[str, float]:
    """Sample 60 test prompts onto one sheet, and return the shares that the checker finds right."""
    prompts, scenes = test_prompts()
    images = sample(load_models(base_dir), prompts)
    contact_sheet(images).save(sheet_path)
    return share_right(list(images), scenes)


def _run_stage(name: str, target_dir: Path, build: Callable[[], None]) -> None:
    """Run one stage, unless its folder exists."""
    if target_dir.exists():
        print(f"{name}: already done")
        return
    print(f"{name} ...", flush=True)
    started = time.monotonic()
    build()
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def run_stages(work_dir: Path, merges_path: Path | None) -> None:
    """Run all missing stages, in order."""
    at = work_dir.joinpath

    def tokenizer() -> None:
        if merges_path is None:
            shutil.copytree(BASE_DIR / "tokenizer", at("tokenizer"))
        else:
            build_tokenizer(merges_path, at("tokenizer"))

    _run_stage("tokenizer", at("tokenizer"), tokenizer)
    _run_stage("vae", at("vae"), lambda: build_vae(VAE, at("vae")))
    _run_stage("decoder", at("decoder"), lambda: polish_decoder(at("vae"), DECODER, at("decoder")))
    _run_stage(
        "text", at("text_encoder"), lambda: build_text_encoder(at("tokenizer"), NUM_TEXT_STEPS, at("text_encoder"))
    )
    _run_stage("unet", at("unet"), lambda: build_unet(work_dir, UNET, at("unet")))


def main() -> None:
    """Build the base, check it, and replace the existing one if it is good enough."""
    parser = argparse.ArgumentParser(description="Build the demo's base model; finished stages are reused.")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("demo-build"), help="folder for the results of the stages"
    )
    parser.add_argument("--merges", type=Path, help="CLIP's gzipped merges; without it the existing tokenizer is kept")
    parser.add_argument("--target-dir", type=Path, default=BASE_DIR)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run_stages(arguments.work_dir, arguments.merges)
    fresh_dir = arguments.work_dir / "base"
    shutil.rmtree(fresh_dir, ignore_errors=True)
    assemble(arguments.work_dir, fresh_dir)
    shares = check(fresh_dir, arguments.work_dir / "sheet.png")
    print(f"right: {shares}")
    if shares["all"] < MIN_SHARE_RIGHT:
        raise SystemExit(
            f"Only {shares['all']:.0%} are right; {MIN_SHARE_RIGHT:.0%} are required. Train the UNet longer."
        )
    shutil.rmtree(arguments.target_dir, ignore_errors=True)
    shutil.copytree(fresh_dir, arguments.target_dir)


if __name__ == "__main__":
    main()
