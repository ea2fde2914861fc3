"""Write a base model of full size with random weights, from the configs that come with the program.

    python scripts/full_size.py sd1|sd2|sdxl FOLDER [--dtype fp16|bf16|fp32] [--only PART]

It learns nothing useful, but takes the time, memory and disk space of a real model: SD 1.x about 2 GB in fp16, SDXL
about 7 GB. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from ed2.models.families.facts import FACTS, PartFacts  # noqa: E402
from ed2.models.files.description import CONFIGS  # noqa: E402
from ed2.models.files.tokens import SHIPPED  # noqa: E402

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SPREAD = 0.02
"""Standard deviation of the weights: small enough that no activation overflows."""


CPU = torch.device("cpu")


def write_base(
    family: str, folder: Path, dtype: torch.dtype, only: str | None = None, *, device: torch.device = CPU
) -> Path:
    """Write a diffusers folder of a model of this family, or one network of it; a GPU draws the numbers faster.

    Raises:
        FileExistsError: there is such a folder.
    """
    shutil.copytree(CONFIGS / family, folder)
    for tokenizer in folder.glob("tokenizer*"):
        shutil.copytree(SHIPPED, tokenizer, dirs_exist_ok=True)
    for part in [part for part in FACTS[family].parts if only in (None, part.name)]:
        save_file(random_weights(part, folder / part.name, dtype, device), folder / part.file, {"format": "pt"})
    return folder


def random_weights(part: PartFacts, folder: Path, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """Random weights of a network with the config in `folder`; the scales of norms are 1, biases 0."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in _network(part, folder).state_dict().items()}
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            numbers = torch.empty(shape, dtype=dtype, device=device).normal_(0, SPREAD, generator=generator)
            weights[name] = numbers.cpu()
        else:
            weights[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
    return weights


def _network(part: PartFacts, folder: Path) -> torch.nn.Module:
    library: Any = importlib.import_module(part.library)
    network = getattr(library, part.class_name)
    if part.is_text_encoder:
        return network(network.config_class.from_pretrained(folder))
    return network.from_config(network.load_config(folder))


def main() -> int:
    """Write the model that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FACTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--only", metavar="PART", help="write the weights of this network only, such as vae")
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"{options.folder} exists already; name a new folder.")
    write_base(options.family, options.folder, DTYPES[options.dtype], options.only)
    print(f"Wrote {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
