"""Captions of images by BLIP, from the files of a folder of transformers. Needs no torch until a model is loaded.

Source: Li et al. 2022, "BLIP: bootstrapping language-image pre-training", arXiv:2201.12086.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ed2.errors import ModelError, Problem, printable, shown
from ed2.models.files.folder_problems import asks_for_code, impossible_number
from ed2.models.files.weight_files import WeightFiles, weights_in
from ed2.small_files import read_object

CONFIG, VOCABULARY = "config.json", "vocab.txt"
MODEL_TYPE = "blip"
STEM, PICKLE_STEM = "model", "pytorch_model"
MAX_TOKENS = 40
NUM_BEAMS = 3
MAX_SIDE = 2048
MAX_VOCABULARY_BYTES = 4 << 20
_CHOOSE = "Choose a BLIP model for captions, such as Salesforce/blip-image-captioning-base."


@dataclass(frozen=True)
class CaptionerFiles:
    """A model for captions on the disk.

    Attributes:
        weights: as safetensors, or in PyTorch's own format, which is converted before anything reads it.
        vocabulary: its words and parts of words, by their numbers.
    """

    folder: Path
    config: dict[str, Any]
    weights: WeightFiles
    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "CaptionerFiles":
        """Read the small files in a folder.

        Raises:
            ModelError: it holds no BLIP model, or an incomplete one.
        """
        try:
            config = read_object(folder / CONFIG)
            if (folder / VOCABULARY).stat().st_size > MAX_VOCABULARY_BYTES:
                raise ValueError(f"its {VOCABULARY} is too large")
            vocabulary = (folder / VOCABULARY).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise _error(folder, f"this is not a model for captions ({printable(str(error), 200)}).") from None
        if why := _problem_of(config):
            raise _error(folder, f"{why}.")
        weights = weights_in(folder, STEM) or weights_in(folder, PICKLE_STEM, "bin")
        if weights is None or weights.problem or len(weights.files) != 1:
            raise _error(folder, "its weights are missing, or in several files.")
        return cls(folder, config, weights, tuple(vocabulary))

    @property
    def side(self) -> int:
        """Pixels along each side of the square that it sees."""
        return int(self.config["vision_config"]["image_size"])


def _problem_of(config: dict[str, Any]) -> str:
    """Why a configuration is not that of a model that can be used, without the full stop; empty if it is one."""
    if config.get("model_type") != MODEL_TYPE:
        return f"this is a model of type {shown(config.get('model_type'))}, but {MODEL_TYPE} is needed"
    if why := asks_for_code(config) or impossible_number(config):
        return why
    vision = config.get("vision_config")
    side = vision.get("image_size") if isinstance(vision, dict) else None
    if not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
        return f"its image_size is {shown(side)}"
    return ""


def _error(folder: Path, what: str) -> ModelError:
    return ModelError(printable(str(folder), 1000), [Problem(None, what, _CHOOSE)])


def load_captioner(files: CaptionerFiles, weights: Path, device: str) -> Callable[[Image.Image], str]:
    """Load a model, in half precision on a GPU; the result captions one image after the other.

    Args:
        files: what it consists of.
        weights: the safetensors file with its weights.
        device: such as `cuda`.

    Raises:
        ModelError: the weights do not fit the configuration.
    """
    import torch
    from safetensors.torch import load_file
    from tokenizers import decoders
    from transformers import BlipConfig, BlipForConditionalGeneration
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    try:
        config = BlipConfig.from_dict(files.config)
        model, info = BlipForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=load_file(weights), output_loading_info=True, dtype=dtype
        )
        missing = sorted(map(str, info.get("missing_keys") or ()))
    except Exception as error:  # of many types: the libraries notice a mismatch deep inside
        raise _error(files.folder, f"its weights do not fit its {CONFIG} ({printable(str(error), 200)}).") from error
    if missing:
        raise _error(files.folder, f"{len(missing)} of its tensors are missing, such as {missing[0]}.")
    model = model.to(device).eval()
    mean, std = np.float32(OPENAI_CLIP_MEAN), np.float32(OPENAI_CLIP_STD)

    def caption(image: Image.Image) -> str:
        small = image.resize((files.side, files.side), Image.Resampling.BICUBIC)
        pixels = (np.asarray(small, np.float32) / 255 - mean) / std
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device, dtype)
        tokens = model.generate(pixel_values=batch, max_new_tokens=MAX_TOKENS, num_beams=NUM_BEAMS, do_sample=False)
        words = [files.vocabulary[token] for token in tokens[0].tolist() if token < len(files.vocabulary)]
        spoken = [word for word in words if not (word.startswith("[") and word.endswith("]"))]
        return " ".join(decoders.WordPiece().decode(spoken).split())

    return caption
