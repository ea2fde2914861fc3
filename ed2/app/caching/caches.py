"""The caches of a run: opened in the folder that the settings name, and filled before the first step by a job."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch

from ed2.app.caching.filling import EVERYTHING, FillShare, LatentFiller, TextFiller
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.data.batch import Batch
from ed2.data.cache import TensorCache, cache_folder
from ed2.data.example import Finding
from ed2.data.images import PIXELS_VERSION
from ed2.data.loader import POSTERIOR
from ed2.disk_errors import plain_reason
from ed2.events import Event, Warned
from ed2.models.base import DiffusionModel, Posterior
from ed2.models.families.facts import VAE
from ed2.models.parts import Part
from ed2.tensor_bytes import bytes_in
from ed2.training.state import Job, Run, TrainState

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


@dataclass
class CacheJob(Job):
    """Adds what is missing in the caches before the first step of a new or resumed run."""

    run: Run
    caches: Caches
    spec: RunSpec
    context: RunContext
    name = "caching"

    def due(self, state: TrainState) -> bool:
        """Never: everything is done at the start."""
        return False

    def perform(self, state: TrainState) -> Event | None:
        """Do nothing."""
        return None

    def at_start(self, state: TrainState) -> Event | None:
        """Fill the caches; training continues without what cannot be written. Raises StopRequested."""
        resting: list[Part] = []
        if self.caches.latents and self._fill_latents(self.caches.latents):
            resting.append(self.run.model.parts[VAE])
        if self.caches.text and self._fill_text(self.caches.text):
            model = self.run.model
            resting += [model.parts[part.name] for part in model.facts.text_encoders]
        self.run.objective.resting[:] = resting
        return None

    def _fill_latents(self, cache: TensorCache) -> bool:
        """Whether the cache of latents is complete after filling it."""
        filler = LatentFiller(self.run, cache, self.spec, self.context)
        if self.context.ranks.size == 1:
            return self._fill("latent", filler.fill)
        for share in self._shares():
            self._fill("latent", filler.fill, share)
            self._exchange_news(filler)
            cache.refresh()
        return filler.is_complete()

    def _fill_text(self, cache: TensorCache) -> bool:
        """Whether training needs no text encoder after filling the cache of captions."""
        filler = TextFiller(self.run, cache, self.spec)
        if self.context.ranks.size == 1:
            return self._fill("text", filler.fill)
        for share in self._shares():
            self._fill("text", filler.fill, share)
            self.context.ranks.exchange("text cache", {})
            cache.refresh()
        return filler.is_complete()

    def _shares(self) -> list[FillShare]:
        """What this process does: its share of all, and then of what is still missing in the folder of its machine."""
        ranks = self.context.ranks
        return [FillShare(ranks.rank, ranks.size), FillShare(ranks.local_rank, ranks.local_size)]

    def _fill(self, what: str, fill: Callable[[FillShare], bool], share: FillShare = EVERYTHING) -> bool:
        """Whether a share of a cache is complete after filling it."""
        try:
            return fill(share)
        except OSError as error:
            self.run.bus.emit(Warned(self.run.state.step, _not_written(what, plain_reason(error))))
        return False

    def _exchange_news(self, filler: LatentFiller) -> None:
        """Tell the others which images cannot be used, and report what they have found."""
        lost, ranks = self.run.state.lost, self.context.ranks
        example_of = {example.key: example for example in self.spec.dataset.examples}
        read = [(example.key, values) for example, values in self.context.reads.take_news()]
        for message in ranks.exchange("latent cache", {"lost": lost, "reports": filler.reports, "read": read}):
            for key, epoch in message["lost"].items():
                lost.setdefault(key, epoch)
            for key, what, fix, kind in message["reports"]:
                one = example_of[key]
                self.context.faults(Finding(one.name, what, fix, kind=kind, root=one.root, file=one.path))
            for key, values in message["read"]:
                self.context.reads.add(example_of[key], values)
        filler.reports.clear()


def _not_written(what: str, reason: str) -> str:
    return (
        f"The {what} cache cannot be completed: {reason}. What is missing in it is computed at each step instead. Free "
        "some space, or set another cache_dir."
    )


def _about_latents(model: DiffusionModel, spec: RunSpec) -> dict[str, Any]:
    """What the latents of a crop depend on besides the image and the crop."""
    dtype = next(model.parts[VAE].module.parameters()).dtype
    return {
        "vae": _part_hash(model, VAE),
        "dtype": str(dtype),
        "encode": ENCODE_MODE,
        "device": _device_name(spec, dtype),
        "pixels": PIXELS_VERSION,
        "pillow": PIL.__version__,
        "background": spec.settings.data.alpha_background,
    }


def _about_text(model: DiffusionModel, spec: RunSpec) -> dict[str, Any]:
    """What the embeddings of a caption depend on besides its key."""
    about: dict[str, Any] = {
        "encoders": {part.name: _part_hash(model, part.name) for part in model.facts.text_encoders},
        "family": model.facts.name,
        "dtype": str(spec.machine.frozen_dtype),
        "autocast": str(spec.machine.dtype),
        "device": _device_name(spec, spec.machine.frozen_dtype),
    }
    if spec.machine.device.type == "cuda":
        about["rows"] = 2  # the first ones may have been read before the GPU had written them
    return about


def _open(what: str, about: dict[str, Any], spec: RunSpec, context: RunContext) -> TensorCache:
    def report(text: str) -> None:
        context.bus.emit(Warned(context.state.step, text))

    folder = cache_folder(Path(spec.settings.memory.cache_dir), what, about)
    return TensorCache(folder, about, report)


def _device_name(spec: RunSpec, dtype: torch.dtype) -> str:
    """The kind of processor, since others round differently, and whether a GPU rounds what it computes in fp32."""
    device = spec.machine.device
    if device.type != "cuda":
        return device.type
    uses_tf32 = dtype is torch.float32 and spec.settings.memory.uses_tf32
    return f"{torch.cuda.get_device_name(device)}{' with TF32' if uses_tf32 else ''}"


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
        digest.update(bytes_in(tensor.cpu()).numpy().data)
    return digest.hexdigest()
