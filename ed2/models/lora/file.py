"""LoRA files: reading those of any usual program, and writing kohya's, which web UIs read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.files.header import HeaderError, read_header
from ed2.models.files.layout_names import UNetShape
from ed2.models.files.lora_base import DOWN, LORA_FILE, LoraBase
from ed2.models.files.tensor_file import mapped_tensors, write_single_file
from ed2.models.lora.names import flat_name, kohya_names

_KINDS = {
    "down": r"\.lora_down\.weight|\.lora_A(\.\w+)?\.weight|\.lora\.down\.weight|\.lora_linear_layer\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(\.\w+)?\.weight|\.lora\.up\.weight|\.lora_linear_layer\.up\.weight",
    "alpha": r"\.alpha",
    "dora_scale": r"\.dora_scale",
    "magnitude": r"\.lora_magnitude_vector(\.\w+)?(\.weight)?",
}
_KIND = re.compile("|".join(f"(?P<{kind}>({pattern})$)" for kind, pattern in _KINDS.items()))
_OLD_PROCESSOR = re.compile(r"\.processor\.(to_\w+?)_lora\.(down|up)\.weight$")
"""Of diffusers before 0.20: `attn1.processor.to_q_lora.down.weight`."""
_OTHER_METHODS = re.compile(r"\.(hada_\w+|lokr_\w+|oft_\w+|lora_mid\.weight|a[12]\.weight|b[12]\.weight|diff)$")


@dataclass(frozen=True)
class LoraLayer:
    """What a LoRA adds to the weight of one module.

    Attributes:
        down: (rank, in), or (rank, in, k, k) for a convolution.
        up: (out, rank), or (out, rank, 1, 1).
        alpha: the product of both is multiplied by this, divided by the rank.
        dora_scale: of a DoRA the lengths of the weight's rows, (out, ...), or of its columns, (1, in, ...).
    """

    down: Tensor
    up: Tensor
    alpha: float
    dora_scale: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]

    def change(self) -> Tensor:
        """What is added to a weight before DoRA, in fp32: (out, in), or (out, in, k, k)."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        product = product * (self.alpha / self.rank)
        return product.reshape(len(self.up), *self.down.shape[1:])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its tensors by kohya's names."""
        found = {
            f"{name}.lora_down.weight": self.down,
            f"{name}.lora_up.weight": self.up,
            f"{name}.alpha": torch.tensor(self.alpha),
        }
        if self.dora_scale is not None:
            found[f"{name}.dora_scale"] = self.dora_scale
        return found


def read_lora(path: Path) -> dict[str, LoraLayer]:
    """The layers of a LoRA file by the names that `flat_name` gives them; kohya's and diffusers' names are known.

    Raises:
        ModelError: it is no LoRA, a damaged one, or of a kind that cannot be read.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    others = []
    for name, tensor in _tensors(path).items():
        module, kind = _parsed(name)
        if kind:
            layers.setdefault(flat_name(module), {})[kind] = tensor
        else:
            others.append(name)
    _require_lora(path, layers, [name for name in others if _OTHER_METHODS.search(name)])
    return {name: _layer(pieces) for name, pieces in layers.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ModelError."""
    try:
        read_header(path)
        return mapped_tensors(path)
    except HeaderError as error:
        raise _error(path, Problem(None, error.what, error.fix)) from None
    except (OSError, ValueError) as error:
        raise _error(path, Problem(None, f"{error}.", "Get this file again.")) from None


def _require_lora(path: Path, layers: Mapping[str, Mapping[str, Tensor]], odd: list[str]) -> None:
    """Raise ModelError unless every layer is complete and possible, and there are no tensors of another method."""
    if odd:
        what = f"it is of another kind than LoRA and DoRA, with tensors such as {printable(min(odd))}."
        raise _error(path, Problem(None, what, "Use a LoRA, or merge it with the program that made it."))
    if not layers:
        what = "it is not a LoRA: no tensor is named as one of its layers."
        raise _error(path, Problem(None, what, "Choose the file of a LoRA."))
    if incomplete := [name for name, pieces in layers.items() if not {"down", "up"} <= pieces.keys()]:
        what = f"{len(incomplete)} of its layers are incomplete, such as {printable(min(incomplete))}."
        raise _error(path, Problem(None, what, "Get this file again."))
    if impossible := [name for name, pieces in layers.items() if not _is_possible(pieces)]:
        what = f"{len(impossible)} of its layers have impossible shapes, such as {printable(min(impossible))}."
        raise _error(path, Problem(None, what, "Get this file again."))


def _is_possible(pieces: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a layer have as many dimensions as `LoraLayer` says, and a rank."""
    down, up, scale = pieces["down"], pieces["up"], pieces.get("dora_scale")
    has_sides = min(down.ndim, up.ndim) >= 2 and (scale is None or scale.ndim >= 1)
    return has_sides and len(down) > 0 and ("alpha" not in pieces or pieces["alpha"].numel() == 1)


def _parsed(name: str) -> tuple[str, str]:
    """The module of a tensor and which of its tensors this is; empty if it belongs to no layer."""
    if old := _OLD_PROCESSOR.search(name):
        module = old[1].replace("to_out", "to_out.0")
        return f"{name[: old.start()]}.{module}", old[2]
    match = _KIND.search(name)
    if not match:
        return name, ""
    return name[: match.start()], next(kind for kind in _KINDS if match[kind])


def _layer(pieces: Mapping[str, Tensor]) -> LoraLayer:
    down = pieces["down"]
    alpha = float(pieces["alpha"]) if "alpha" in pieces else float(len(down))
    return LoraLayer(down, pieces["up"], alpha, pieces.get("dora_scale", _column(pieces.get("magnitude"), down)))


def _column(magnitude: Tensor | None, down: Tensor) -> Tensor | None:
    """Peft's lengths of rows, (out,) or (1, out, 1, 1), as kohya's: (out, 1), or (out, 1, 1, 1) for a convolution."""
    if magnitude is None:
        return None
    return magnitude.reshape(-1, *[1] * (down.ndim - 1))


def write_lora(
    path: Path,
    layers: Mapping[str, LoraLayer],
    family: FamilyFacts,
    about: Mapping[str, str],
    *,
    dtype: torch.dtype,
    place: Callable[[Path, Path], Path],
) -> Path:
    """Write layers by kohya's names as one file; gives where it is.

    Args:
        path: of the file.
        layers: by kohya's names.
        family: of the base.
        about: what `ModelSpec` says of the model.
        dtype: of the numbers.
        place: gives the finished file its name, as in `write_single_file`.

    Raises:
        CheckpointError: it could not be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= layer.tensors(name)
    metadata = {"format": "pt", **about, **_network(layers, family)}
    metadata["modelspec.architecture"] += "/lora"
    return write_single_file(path, tensors, metadata, dtype=dtype, place=place)


def checkpoint_layers(checkpoint: Path, base: LoraBase) -> dict[str, LoraLayer]:
    """The layers of a LoRA's checkpoint by kohya's names; the numbers are read from the disk when they are used.

    Raises:
        OSError, ValueError: its file cannot be read.
    """
    tensors = mapped_tensors(checkpoint / LORA_FILE)
    family, shape = FACTS[base.family], UNetShape(base.layers_per_block, base.attention_levels)
    layers: dict[str, LoraLayer] = {}
    for part in family.parts:
        prefix = f"{part.name}."
        names = [name for name in tensors if name.startswith(prefix) and name.endswith(DOWN)]
        modules = [name.removeprefix(prefix).removesuffix(DOWN) for name in names]
        for module, name in kohya_names(family, part, modules, shape).items():
            down, up = (tensors[f"{prefix}{module}.lora_{side}.weight"] for side in "AB")
            magnitude = tensors.get(f"{prefix}{module}.lora_magnitude_vector.weight")
            layers[name] = LoraLayer(down, up, base.alpha, _column(magnitude, down))
    return layers


def _network(layers: Mapping[str, LoraLayer], family: FamilyFacts) -> dict[str, str]:
    """What sd-scripts writes of a LoRA; web UIs sort by the version of the base and show the rank."""
    ranks = {layer.rank for layer in layers.values()}
    alphas = {layer.alpha for layer in layers.values()}
    return {
        "ss_base_model_version": family.lora_version,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
    }


def _error(path: Path, problem: Problem) -> ModelError:
    return ModelError(f"The LoRA {printable(str(path), 1000)} cannot be used:", [problem])
