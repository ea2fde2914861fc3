"""The record of the base model in a LoRA's checkpoint, which does not hold the model itself. Needs no torch."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ed2.disk import sha256_of
from ed2.errors import ModelError, Problem, printable
from ed2.small_files import is_file, read_object

BASE_FILE = "base.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""Adapters in the layout and under the name that diffusers uses."""
DOWN = ".lora_A.weight"
"""End of the name of each adapter's first matrix in that file."""
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class LoraBase:
    """The base model of a LoRA, and what its files cannot say of themselves.

    Attributes:
        path: of the model when the run began.
        sha256: of its weights.
        family: of the model.
        prediction_type: what it predicts, as diffusers call it.
        rank: of the LoRA.
        alpha: of the LoRA.
        layers: that it changes, a value of the setting.
        layers_per_block: of the UNet, from which the names in a single file follow.
        attention_levels: whether each level of the UNet has attention.
        dora: whether it has magnitudes, as DoRA.
    """

    path: str
    sha256: str
    family: str
    prediction_type: str
    rank: int
    alpha: float
    layers: str
    layers_per_block: int
    attention_levels: tuple[bool, ...]
    dora: bool = False

    def as_json(self) -> bytes:
        """The content of the record's file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read the record of a checkpoint.

        Raises:
            ModelError: it is damaged.
        """
        try:
            values = read_object(checkpoint / BASE_FILE)
            return cls(**{**values, "attention_levels": tuple(values["attention_levels"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"its {BASE_FILE} cannot be read ({type(error).__name__})."
            raise ModelError(_subject(checkpoint), [Problem(None, what, "Choose another checkpoint.")]) from None


def adapter_metadata(record: bytes, names: Iterable[str]) -> dict[str, str]:
    """What the header of a LoRA's file tells diffusers, which would take the rank for the alpha.

    Source: diffusers 0.42, loaders/lora_base.py, LORA_ADAPTER_METADATA_KEY.

    Args:
        record: the base model's, as JSON.
        names: of the file's tensors.
    """
    base = json.loads(record)
    layers: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(DOWN):
            part, _, layer = name.removesuffix(DOWN).partition(".")
            # Which transformers leaves out from version 5.6 on; the end of a name is enough.
            layers.setdefault(part, []).append(layer.removeprefix("text_model."))
    values: dict[str, object] = {}
    for part, changed in layers.items():
        values |= {f"{part}.r": base["rank"], f"{part}.lora_alpha": base["alpha"], f"{part}.use_dora": base["dora"]}
        values[f"{part}.target_modules"] = changed
    return {"lora_adapter_metadata": json.dumps(values)}


def is_lora_checkpoint(path: Path) -> bool:
    """Whether a folder is the checkpoint of a LoRA."""
    return is_file(path / BASE_FILE) and is_file(path / LORA_FILE)


def model_behind(path: Path, moved_to: str | None) -> Path:
    """The model whose weights a path stands for: itself, or of a LoRA's checkpoint the base model.

    Args:
        path: of a model or checkpoint.
        moved_to: where a LoRA's base is now, if it was moved.

    Raises:
        ModelError: the base model of the LoRA is not there.
    """
    if not is_lora_checkpoint(path):
        return path
    base = Path(moved_to or LoraBase.read(path).path)
    if base.exists():
        return base
    what = f"its base model {printable(str(base), 1000)} is not there."
    fix = "Put it back, or say where it is now: --lora_base PATH"
    raise ModelError(_subject(path), [Problem("lora_base", what, fix)])


def content_hash(model: Path) -> str:
    """The SHA-256 of a model's weights: of a single file, or of the names and hashes of all files of a folder."""
    if model.is_file():
        return sha256_of(model)
    total = hashlib.sha256()
    files: list[Path] = []
    for pattern in WEIGHTS:
        files += model.glob(f"*/{pattern}")
    for file in sorted(set(files)):
        total.update(f"{file.relative_to(model).as_posix()} {sha256_of(file)}\n".encode())
    return total.hexdigest()


def require_base_hash(checkpoint: Path, base: Path, found: str) -> None:
    """Raise ModelError unless a model, whose `content_hash` was found, is the one that a LoRA was trained on."""
    if found == LoraBase.read(checkpoint).sha256:
        return
    what = f"the model {printable(str(base), 1000)} is not the one that it was trained on: its weights differ."
    fix = "Put the former model back, or start a new LoRA with this one as --resume_ckpt."
    raise ModelError(_subject(checkpoint), [Problem(None, what, fix)])


def _subject(checkpoint: Path) -> str:
    return f"The LoRA {printable(checkpoint.name)} cannot be continued:"
