"""The caches of a run, opened in the folder that the settings name."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch

from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.data.batch import Batch
from ed2.data.cache import TensorCache, cache_folder
from ed2.data.images import PIXELS_VERSION
from ed2.data.loader import POSTERIOR
from ed2.events import Warned
from ed2.models.base import DiffusionModel, Posterior
from ed2.models.families.facts import VAE

LATENTS, TEXT = "latents", "text"
ENCODE_MODE = "one image at a time, channels last"
"""How the VAE encodes: another mode may differ in the last bits."""


@dataclass(frozen=True)
class Caches:
    """The caches of a run; None for one that is off, or that this run cannot use."""

    latents: TensorCache | None = None
    text: TensorCache | None = None

    def mend(self, batch: Batch, posterior: Posterior) -> None:
        """Keep what was encoded of a batch in training, as far as the cache has lost it since the run started."""
        if self.latents is None:
            return
        for key, mean, std in zip(batch.cache_keys, posterior.mean, posterior.std, strict=False):
            if self.latents.is_lost(key):
                self.latents.mend(key, {POSTERIOR: torch.stack([mean, std]).to("cpu")})


def open_caches(model: DiffusionModel, spec: RunSpec, context: RunContext) -> Caches:
    """Open the caches that the settings turn on; what is missing in them is added before the first step."""
    memory = spec.settings.memory
    encoders = [model.parts[part.name] for part in model.facts.text_encoders]
    latents = None
    if memory.cache_latents:
        latents = _open(LATENTS, _about_latents(model, spec), spec, context)
    if not memory.cache_text or any(encoder.is_trained for encoder in encoders):
        return Caches(latents)
    text = _open(TEXT, _about_text(model, spec), spec, context)
    model.use_text_cache(text)
    return Caches(latents, text)


def _about_latents(model: DiffusionModel, spec: RunSpec) -> dict[str, Any]:
    """What the latents of a crop depend on besides the image and the crop."""
    return {
        "vae": _part_hash(model, VAE),
        "dtype": str(next(model.parts[VAE].module.parameters()).dtype),
        "encode": ENCODE_MODE,
        "device": _device_name(spec.machine.device),
        "pixels": PIXELS_VERSION,
        "pillow": PIL.__version__,
        "background": spec.settings.data.alpha_background,
    }


def _about_text(model: DiffusionModel, spec: RunSpec) -> dict[str, Any]:
    """What the embeddings of a caption depend on besides its key."""
    return {
        "encoders": {part.name: _part_hash(model, part.name) for part in model.facts.text_encoders},
        "family": model.facts.name,
        "dtype": str(spec.machine.frozen_dtype),
        "autocast": str(spec.machine.dtype),
        "device": _device_name(spec.machine.device),
    }


def _open(what: str, about: dict[str, Any], spec: RunSpec, context: RunContext) -> TensorCache:
    def report(text: str) -> None:
        context.bus.emit(Warned(context.state.step, text))

    folder = cache_folder(Path(spec.settings.memory.cache_dir), what, about)
    return TensorCache(folder, about, report)


def _device_name(device: torch.device) -> str:
    """The kind of processor, since others round differently."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def _part_hash(model: DiffusionModel, name: str) -> str:
    """The hash of a part as it computes: its weights in their precision, its configuration, a tokenizer's files."""
    part, facts = model.parts[name], model.facts.part(name)
    config = {key: value for key, value in model.source.config(facts.config).items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    if facts.is_text_encoder:
        for path, content in sorted(model.source.small_files.items()):
            if path.startswith(f"{facts.tokenizer}/"):
                digest.update(content)
    named = {part.saved_name(key): tensor for key, tensor in part.module.state_dict().items()}
    for key, tensor in sorted(named.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
