"""Tiny real models and images: the classes of the full-size ones, with random weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from ed2.settings.files import PROGRAM_DIR

TOKENIZER = PROGRAM_DIR / "ed2" / "demo" / "base" / "tokenizer"
WIDTH = 32


def make_model(folder: Path, *, family: str = "sd1", prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a diffusers folder of a tiny model whose VAE makes 4 pixels one latent."""
    torch.manual_seed(seed)
    make_unet(family).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    ).save_pretrained(folder / "vae")
    make_text_encoder(family).save_pretrained(folder / "text_encoder")
    DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    index = MODEL_INDEX
    if family == "sdxl":
        index = SDXL_INDEX
        make_second_encoder().save_pretrained(folder / "text_encoder_2")
        shutil.copytree(TOKENIZER, folder / "tokenizer_2")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", pad_token="!")
        tokenizer.save_pretrained(folder / "tokenizer_2")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def make_unet(family: str) -> UNet2DConditionModel:
    """A UNet of two levels; as in the full-size ones only SDXL has attention on the last."""
    options: dict[str, Any] = {
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": family != "sd1",
    }
    if family == "sdxl":
        options |= {
            "cross_attention_dim": 2 * WIDTH,
            "attention_head_dim": (2, 4),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
        }
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(WIDTH, WIDTH), layers_per_block=1, norm_num_groups=4, **options
    )


def make_text_encoder(family: str) -> CLIPTextModel:
    return CLIPTextModel(_text_config(hidden_act="gelu" if family == "sd2" else "quick_gelu"))


def make_second_encoder() -> CLIPTextModelWithProjection:
    """The second text encoder of SDXL, with a layer more than the first."""
    return CLIPTextModelWithProjection(_text_config(hidden_act="gelu", num_hidden_layers=3, projection_dim=WIDTH))


def _text_config(**options: Any) -> CLIPTextConfig:
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8"))
    common = {
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    return CLIPTextConfig(**{**common, **options})


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}


SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "force_zeros_for_empty_prompt": True,
}


def with_old_attention_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a VAE by the names that diffusers used before 2023."""
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in pairs.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[name] = tensor
    return renamed


WORDS = "a photo of red blue cat dog house tree on the grass ##s , with and two small".split()


def make_captioner(folder: Path, *, is_pickled: bool = False) -> Path:
    """Write a tiny BLIP model with random weights, which says a few words of each image; as the hub holds it."""
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    size = len(vocabulary) + 2  # two more mark the beginning of a text
    own = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": size, "encoder_hidden_size": WIDTH, "max_position_embeddings": 64, "bos_token_id": size - 2}
    ends = {"pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3, "initializer_range": 0.3}
    vision = {"image_size": 32, "patch_size": 8, "initializer_range": 0.3}
    configs = {"text_config": {**own, **text, **ends}, "vision_config": {**own, **vision}}
    config = BlipConfig(**configs, projection_dim=16, image_text_hidden_size=16)
    model = BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    if is_pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def uncropped(size: tuple[int, int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last two fields of a batch of `count` images that are used whole: original sizes and crops."""
    return torch.tensor([[size[1], size[0]]] * count), torch.zeros(count, 2, dtype=torch.int64)


def make_images(folder: Path, sizes: list[tuple[int, int]], *, seed: int = 0) -> Path:
    """Write noise images of these sizes, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number, (width, height) in enumerate(sizes):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"an image of number {number}", encoding="utf-8")
    return folder
