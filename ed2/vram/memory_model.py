"""What a run keeps in memory, from its settings alone: the trained weights, their format, the optimizers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ed2.models.families.facts import FACTS, VAE, FamilyFacts, PartFacts
from ed2.settings.checks import SHARDED_OPTIMIZERS
from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.shapes import ModelShape, TracedRow, TrainedWeights, adapter_weights, state_bytes, update_bytes

SUM_BYTES = 2**26
"""Of the buffer in which several processes add up their gradients."""
FP32_COPIES = 3
"""Of a tensor that is updated by itself: its weights, its gradient, and the random bits of rounding."""


@dataclass(frozen=True)
class PlannedFeatures:
    """What a run does that decides which weights are on the GPU.

    Attributes:
        cached_latents: latents come from a cache, and the VAE is not on the GPU in training.
        cached_text: text embeddings come from a cache, and no text encoder is on the GPU in training if all are frozen.
    """

    cached_latents: bool = False
    cached_text: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "PlannedFeatures":
        """The features that settings turn on."""
        return cls(
            cached_latents=settings.memory.cache_latents,
            # Captions that change at each visit are encoded then.
            cached_text=settings.memory.cache_text and not settings.data.shuffle_tags,
        )


@dataclass(frozen=True)
class MemoryModel:
    """The settings of a run that determine its memory."""

    settings: Settings
    shape: ModelShape
    card: Card
    features: PlannedFeatures

    @property
    def on_card(self) -> bool:
        """Whether the run computes on a GPU, not on the CPU."""
        return self.card.kind == "cuda"

    @property
    def has_convolution_workspace(self) -> bool:
        """Whether convolutions copy their input and output to channels-last order, as a GPU's kernels want it."""
        return self.on_card and not self.settings.memory.channels_last

    @property
    def precision(self) -> str:
        """`half` under mixed precision, which a CPU never uses."""
        if self.settings.memory.amp and self.on_card:
            return "half"
        return "fp32"

    @property
    def frozen_bytes(self) -> int:
        """Bytes of a frozen weight, but for the VAE's."""
        return 2 if self.precision == "half" else 4

    @property
    def vae_precision(self) -> str:
        """That of the VAE: fp32 where mixed precision is fp16 and its numbers are too large for that."""
        is_fp16 = self.settings.memory.amp_dtype == "fp16" or not self.card.has_bf16
        if is_fp16 and self.family.vae_overflows_fp16:
            return "fp32"
        return self.precision

    @property
    def vae_bytes(self) -> int:
        """Bytes of a weight of the VAE."""
        return 2 if self.vae_precision == "half" else 4

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight, and of its gradient."""
        return 2 if self.has_half_weights else 4

    @property
    def has_half_weights(self) -> bool:
        """Whether the trained weights and their gradients are in bf16 themselves."""
        return self.settings.memory.weights_dtype == "bf16" and not self.trains_adapters

    @property
    def trains_adapters(self) -> bool:
        """Whether a LoRA is trained, its base frozen."""
        return self.settings.model.method == "lora"

    @property
    def frees_gradients(self) -> bool:
        """Whether each gradient is consumed as soon as it is complete."""
        return self.settings.memory.fused_backward

    def borrows_trace(self, variant: str) -> bool:
        """Whether weights in bf16 are planned by a trace of weights in fp32, since they were not traced themselves."""
        return self.has_half_weights and not variant.endswith("/half")

    def gradient_share(self, variant: str) -> float:
        """The size of gradients relative to those that were traced."""
        if self.borrows_trace(variant):
            return 0.5
        return 1.0

    @property
    def batch(self) -> int:
        """Images in a forward pass."""
        return self.settings.data.batch_size

    @property
    def cells(self) -> int:
        """Latents of an image; the square is the largest size of a resolution."""
        return (self.settings.data.resolution // self.shape.traced.downscale) ** 2

    @property
    def holds_gradients(self) -> bool:
        """Whether the gradients of one batch stay in memory while the next is computed."""
        return self.settings.data.grad_accum > 1

    @property
    def family(self) -> FamilyFacts:
        """The model's family."""
        return FACTS[self.shape.family]

    @cached_property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts that are trained: their own weights, or adapters beside them."""
        return tuple(self.settings.model.trained_parts(self.family))

    @property
    def trains_unet(self) -> bool:
        """Whether the UNet is trained."""
        return "unet" in self.trained_parts

    @property
    def trains_text(self) -> bool:
        """Whether any of a text encoder is trained."""
        return any(part.name in self.trained_parts for part in self.family.text_encoders)

    @property
    def casts_unet(self) -> bool:
        """Whether autocast keeps a copy of the UNet's weights during sampling."""
        is_whole = self.trains_unet and not self.trains_adapters
        return is_whole and self.precision == "half" and not self.has_half_weights

    @cached_property
    def trained(self) -> Mapping[str, TrainedWeights]:
        """The trained weights of each network."""
        if self.trains_adapters:
            return {name: self.adapters_of(name, self._trained_share(name)) for name in self.trained_parts}
        counts = self.shape.traced.parameters
        return {
            name: TrainedWeights.share_of(counts[name], self._trained_numbers_of(name)) for name in self.trained_parts
        }

    def adapters_of(self, name: str, share: float = 1.0) -> TrainedWeights:
        """The numbers in the adapters of a network, or of a share of its layers."""
        return adapter_weights(self.shape, name, self.settings.lora, share)

    def _trained_share(self, name: str) -> float:
        """The share of a network's layers whose adapters are trained."""
        part = self.family.part(name)
        if not part.is_text_encoder:
            return 1.0
        return 1 - self._frozen_layers(part) / self._layers(part)

    def _trained_numbers_of(self, name: str) -> float:
        part, counts = self.family.part(name), self.shape.traced.parameters[name]
        if not part.is_text_encoder:
            return self.shape.numbers(name)
        own = self.settings.text_encoder
        numbers = counts["all"] - (self._frozen_layers(part) * counts["layer"])
        if own.freeze_embeddings or own.unfreeze_last_n_layers is not None:
            numbers -= counts["embeddings"]
        if own.freeze_final_layer_norm:
            numbers -= counts["final_norm"]
        return max(1, numbers) * self.shape.scale(name)

    def _frozen_layers(self, part: PartFacts) -> int:
        """How many layers of a text encoder are frozen."""
        last, layers = self.settings.text_encoder.unfreeze_last_n_layers, self._layers(part)
        if part.name not in self.trained_parts:
            return layers
        if last is None:
            return 0
        return max(0, layers - last)

    def _layers(self, part: PartFacts) -> int:
        return self.shape.traced.parameters[part.name]["layers"]

    @property
    def text_share(self) -> float:
        """Trained share of the weights of the traced text encoders."""
        names = [part.name for part in self.family.text_encoders]
        trained = sum(self.trained[name].numbers for name in names if name in self.trained)
        return trained / sum(self.shape.traced.parameters[name]["all"] for name in names)

    @property
    def text_depth(self) -> float:
        """Share of the text encoders' activations that are kept: of their layers, each as much as it is wide."""
        parts, counts = self.family.text_encoders, self.shape.traced.parameters
        kept = sum((self._layers(part) - self._frozen_layers(part)) * counts[part.name]["final_norm"] for part in parts)
        return kept / sum(self._layers(part) * counts[part.name]["final_norm"] for part in parts)

    @property
    def text_gradient_share(self) -> float:
        """The size of the text encoders' gradients relative to those that were traced with all of them.

        Larger where the UNet is trained too: such a pass is planned at `text_depth` between none and all of them.
        """
        if self.trains_unet and self.text_depth:
            return self.text_share / self.text_depth
        return self.text_share

    def optimizer(self, network: str) -> str:
        """The name of a network's optimizer."""
        return self.settings.optimizer_of(self.family.part(network), on_card=self.on_card)

    def variant(self, *, with_text: bool) -> str:
        """The name of the traced training step; `with_text` includes text encoders if any is trained."""
        if self.trains_adapters:
            return self._variant_of_adapters(with_text=with_text)
        memory = self.settings.memory
        trained = "both" if with_text and self.trains_text else "unet"
        if not self.trains_unet:
            trained = "text_encoder"
        times = "twice" if memory.gradient_checkpointing else "once"
        attention = "slice" if memory.attn_type == "slice" else "sdp"
        weights = "half" if self.has_half_weights and self.precision == "half" else "fp32"
        course = f"{self.precision}/{trained}/{times}"
        known = self.shape.traced.training
        nearest = (f"{course}/{attention}/{weights}", f"{course}/{attention}/fp32", f"{course}/sdp/fp32")
        return next(name for name in nearest if name in known)

    def _variant_of_adapters(self, *, with_text: bool) -> str:
        """The name of the nearest traced step of a LoRA; the notes of the plan say what it leaves out."""
        times = "twice" if self.settings.memory.gradient_checkpointing else "once"
        text, kinds = [""], [""]
        if with_text and self.trains_text:
            text.insert(0, "-both")
        if self.settings.lora.lora_dora:
            kinds.insert(0, "-dora")
        for changed, both, kind in product((self.settings.lora.lora_layers, "attention"), text, kinds):
            name = f"{self.precision}/lora{both}/{times}/sdp/{changed}{kind}"
            if name in self.shape.traced.training:
                return name
        raise LookupError(f"no trace of a LoRA at {self.precision}")

    @property
    def context_chunks(self) -> int:
        """Chunks of 75 tokens that the UNet attends to in a batch of the longest captions and shorter ones.

        Captions of several lengths are repeated up to their least common multiple.
        """
        chunks = self.settings.data.caption_chunks
        if self.batch == 1:
            return chunks
        return math.lcm(*range(1, chunks + 1))

    def longer_captions(self, row: TracedRow, variant: str) -> float:
        """Bytes that an image takes more, at a moment of a step, if its caption is as long as `caption_chunks` allows.

        The traces are of one chunk. What they take per image, whatever its area, is for the caption: in the UNet as
        much as without trained text encoders, the rest in these.
        """
        if self.settings.data.caption_chunks == 1:
            return 0
        per_image = row.activations[1]
        precision, _, *course = variant.split("/")
        unet_alone = "/".join((precision, "unet", *course))
        if self.trains_adapters:
            unet_alone = self.variant(with_text=False)
        in_unet = min(per_image, max(other.activations[1] for other in self.shape.traced.training[unet_alone]))
        in_text = per_image - in_unet
        return in_unet * (self.context_chunks - 1) + in_text * (self.settings.data.caption_chunks - 1)

    def weights(self) -> float:
        """Bytes of all weights on the device, trained ones in training precision."""
        here = [part for part in self.family.parts if not self.is_cached(part)]
        total: float = sum(map(self.bytes_of, here))
        if self.trains_adapters:
            total += 4 * sum(self.adapters_of(name).numbers for name in self.trained_parts)
        return total

    def is_cached(self, part: PartFacts) -> bool:
        """Whether a cache takes the place of a part in training, so that it is not on the device."""
        if part.is_text_encoder:
            trained = self.settings.model.trained_parts(self.family)
            return self.features.cached_text and not any(p.name in trained for p in self.family.text_encoders)
        return part.name == VAE and self.features.cached_latents

    def bytes_of(self, part: PartFacts) -> int:
        """Bytes of a part's weights on the device."""
        each = self.frozen_bytes
        if part.name == VAE:
            each = self.vae_bytes
        elif part.name in self.trained_parts and not self.trains_adapters:
            each = self.trained_bytes
        return self.shape.numbers(part.name) * each

    def gradients(self) -> float:
        """Bytes of all gradients."""
        return self.trained_bytes * self._trained_numbers

    def average(self) -> float:
        """Bytes of the EMA, if it is on the device that trains."""
        own = self.settings.ema
        is_here = own.is_on and (own.ema_device == "cuda" or not self.on_card)
        if not is_here:
            return 0.0
        return 4 * self._trained_numbers

    @property
    def _trained_numbers(self) -> float:
        return sum(trained.numbers for trained in self.trained.values())

    def optimizer_state(self) -> float:
        """Bytes of the optimizers' state that a process keeps: its share, where several share it out."""
        total = 0.0
        for name, trained in self.trained.items():
            optimizer = self.optimizer(name)
            keepers = self.settings.run.num_processes if optimizer in SHARDED_OPTIMIZERS else 1
            total += state_bytes(optimizer, trained) / keepers
        return total

    def sums(self) -> float:
        """Bytes in which several processes add up their gradients: at least one tensor at a time."""
        if self.settings.run.num_processes == 1:
            return 0.0
        return max(SUM_BYTES, self.largest_tensor())

    def optimizer_update(self) -> float:
        """Bytes that an optimizer allocates during an update; one network is updated after the other."""
        copies = FP32_COPIES * self.largest_tensor()
        own = max((update_bytes(self.optimizer(name), trained) for name, trained in self.trained.items()), default=0.0)
        return own + (copies if self.has_half_weights or self.frees_gradients else 0.0)

    def freed_gradients(self) -> float:
        """Bytes of the gradients that are there at once where each is consumed as soon as it is complete.

        Of several processes, gradients wait until there are as many as are summed at once.
        """
        waiting = 0 if self.settings.run.num_processes == 1 else SUM_BYTES // 4 * self.trained_bytes
        return self.largest_tensor() + min(waiting, self.gradients())

    def largest_tensor(self) -> float:
        """Bytes of the largest trained tensor."""
        return 4 * max((trained.largest for trained in self.trained.values()), default=0.0)
