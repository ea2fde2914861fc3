"""The caches of a run, opened in the folder that the settings name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch

from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.data.cache import TensorCache, cache_folder
from ed2.data.images import PIXELS_VERSION
from ed2.data.loader import POSTERIOR, Batch
from ed2.events import Warned
from ed2.models.base import DiffusionModel, Posterior
from ed2.models.families.facts import VAE
from ed2.models.fingerprint import part_hash

LATENTS, TEXT = "latents", "text"
ENCODE_MODE = "one image at a time, channels last"
"""How the VAE encodes: another mode may differ in the last bits."""


@dataclass(frozen=True)
class Caches:
    """The caches of a run; None for one that is off, or that this run cannot use."""

    latents: TensorCache | None = None

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
    if not memory.cache_latents:
        return Caches()
    about = {
        "vae": part_hash(model, VAE),
        "dtype": str(next(model.parts[VAE].module.parameters()).dtype),
        "encode": ENCODE_MODE,
        "device": _device_name(spec.machine.device),
        "pixels": PIXELS_VERSION,
        "pillow": PIL.__version__,
        "background": spec.settings.data.alpha_background,
    }
    return Caches(latents=_open(LATENTS, about, spec, context))


def _open(what: str, about: dict[str, Any], spec: RunSpec, context: RunContext) -> TensorCache:
    def report(text: str) -> None:
        context.bus.emit(Warned(context.state.step, text))

    folder = cache_folder(Path(spec.settings.memory.cache_dir), what, about)
    return TensorCache(folder, about, report)


def _device_name(device: torch.device) -> str:
    """The kind of processor, since others round differently."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
