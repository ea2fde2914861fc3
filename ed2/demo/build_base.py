"""Builds the demo's base model from scratch, stage by stage: `python -m ed2.demo.build_base --merges FILE`."""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo.checker import share_right
from ed2.demo.models import NOISE_SCHEDULE
from ed2.demo.sampling import Models, contact_sheet, sample, test_prompts
from ed2.demo.tokenizer import build_tokenizer
from ed2.demo.train_text import build_text_encoder
from ed2.demo.train_unet import UnetSettings, build_unet
from ed2.demo.train_vae import VaeSettings, build_vae, polish_decoder

BASE_DIR = Path(__file__).parent / "base"
NUM_TEXT_STEPS = 500
VAE = VaeSettings(num_steps=1900, learning_rate=1e-3, crop_share=0.87)
DECODER = VaeSettings(num_steps=2500, learning_rate=1e-3, crop_share=0.78, decoder_only=True, seed=2)
UNET = UnetSettings(num_steps=2773)
MIN_SHARE_RIGHT = 0.8
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
