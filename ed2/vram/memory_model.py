"""What a run keeps in memory, from its settings alone: the trained weights, their format, the optimizers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.shapes import ModelShape

NETWORKS = ("unet", "text_encoder")
BLOCK = 256
"""Values that share a scale in the state of an 8-bit optimizer (bitsandbytes 0.50)."""
STATE_BYTES = {"adamw": 8, "lion": 4, "prodigy": 16, "schedulefree": 8}
"""Bytes of optimizer state per trained weight."""
EIGHT_BIT_AVERAGES = {"adamw8bit": 2, "lion8bit": 1}
"""Running averages of one byte per weight."""
TENSORS_AT_ONCE = {"adafactor": 3, "prodigy": 2}
"""Copies of the largest tensor during an update."""
FP32_COPIES = 3
"""Of a tensor that is updated by itself: its weights, its gradient, and the random bits of rounding."""
UNKNOWN_STATE_BYTES = 8
"""Bytes per weight assumed for an optimizer that is not listed, as for AdamW."""


@dataclass(frozen=True)
class TrainedWeights:
    """The trained weights of a network.

    Attributes:
        numbers: how many.
        small: those in tensors of under 4096, whose state 8-bit optimizers keep in fp32.
        largest: those in the largest tensor.
        factored: numbers in Adafactor's averages.
    """

    numbers: float
    small: float
    largest: float
    factored: float

    @classmethod
    def share_of(cls, counts: Mapping[str, int], numbers: float) -> "TrainedWeights":
        """`numbers` of a part's weights; its other counts scale in proportion."""
        share = numbers / counts["all"]
        return cls(numbers, counts["small"] * share, min(counts["largest"], numbers), counts["factored"] * share)


def state_bytes(optimizer: str, trained: TrainedWeights) -> float:
    """Bytes that an optimizer keeps between steps."""
    if optimizer in EIGHT_BIT_AVERAGES:
        averages = EIGHT_BIT_AVERAGES[optimizer]
        return averages * ((trained.numbers - trained.small) * (1 + 4 / BLOCK) + trained.small * 4)
    if optimizer == "adafactor":
        return 4 * trained.factored
    return STATE_BYTES.get(optimizer, UNKNOWN_STATE_BYTES) * trained.numbers


def update_bytes(optimizer: str, trained: TrainedWeights) -> float:
    """Bytes that an optimizer allocates in an update besides its state; schedule-free handles all tensors together."""
    if optimizer == "schedulefree":
        return 4 * trained.numbers
    return TENSORS_AT_ONCE.get(optimizer, 0) * 4 * trained.largest


@dataclass(frozen=True)
class PlannedFeatures:
    """Features that can be planned but have no setting yet.

    Attributes:
        cached_latents: latents come from a cache, and the VAE is not on the GPU.
        cached_text: text embeddings come from a cache, and the text encoder is not on the GPU.
        lora_rank: train adapters of this rank in the UNet's attention and nothing else; 0 trains the model.
    """

    cached_latents: bool = False
    cached_text: bool = False
    lora_rank: int = 0


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
        return "half" if self.settings.memory.amp and self.on_card else "fp32"

    @property
    def frozen_bytes(self) -> int:
        """Bytes of a frozen weight."""
        return 2 if self.precision == "half" else 4

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight, and of its gradient."""
        return 2 if self.has_half_weights else 4

    @property
    def has_half_weights(self) -> bool:
        """Whether the trained weights and their gradients are in bf16 themselves."""
        return self.settings.memory.weights_dtype == "bf16" and not self.features.lora_rank

    @property
    def frees_gradients(self) -> bool:
        """Whether each gradient is consumed as soon as it is complete."""
        return self.settings.memory.fused_backward

    def borrows_trace(self, variant: str) -> bool:
        """Whether weights in bf16 are planned by a trace of weights in fp32, since they were not traced themselves."""
        return self.has_half_weights and not variant.endswith("/half")

    def gradient_share(self, variant: str) -> float:
        """The size of gradients relative to those that were traced."""
        return 0.5 if self.borrows_trace(variant) else 1.0

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
    def trains_unet(self) -> bool:
        """Whether the UNet's own weights are trained."""
        return not self.settings.model.disable_unet_training and not self.features.lora_rank

    @property
    def trains_text(self) -> bool:
        """Whether any of the text encoder is trained."""
        return not self.settings.model.disable_textenc_training and not self.features.lora_rank

    @property
    def casts_unet(self) -> bool:
        """Whether autocast keeps a copy of the UNet's weights during sampling."""
        return self.trains_unet and self.precision == "half" and not self.has_half_weights

    @cached_property
    def trained(self) -> Mapping[str, TrainedWeights]:
        """The trained weights of each network."""
        counts = self.shape.traced.parameters
        if self.features.lora_rank:
            numbers = self.features.lora_rank * self.shape.traced.adapters_per_rank
            return {"unet": TrainedWeights(numbers, 0, numbers / 100, numbers)}
        found = {}
        if self.trains_unet:
            found["unet"] = TrainedWeights.share_of(counts["unet"], self.shape.numbers("unet"))
        if self.trains_text:
            found["text_encoder"] = TrainedWeights.share_of(counts["text_encoder"], self._trained_text_numbers)
        return found

    @property
    def _trained_text_numbers(self) -> float:
        own, counts = self.settings.text_encoder, self.shape.traced.parameters["text_encoder"]
        numbers = counts["all"] - (self._frozen_layers * counts["layer"])
        if own.freeze_embeddings or own.unfreeze_last_n_layers is not None:
            numbers -= counts["embeddings"]
        if own.freeze_final_layer_norm:
            numbers -= counts["final_norm"]
        return max(1, numbers) * self.shape.scale("text_encoder")

    @property
    def _frozen_layers(self) -> int:
        last = self.settings.text_encoder.unfreeze_last_n_layers
        return 0 if last is None else max(0, self.shape.traced.parameters["text_encoder"]["layers"] - last)

    @property
    def text_share(self) -> float:
        """Trained share of the traced text encoder."""
        if "text_encoder" not in self.trained:
            return 0.0
        return self.trained["text_encoder"].numbers / self.shape.traced.parameters["text_encoder"]["all"]

    @property
    def text_depth(self) -> float:
        """Share of the text encoder's layers that keep activations."""
        return 1 - self._frozen_layers / self.shape.traced.parameters["text_encoder"]["layers"]

    def optimizer(self, network: str) -> str:
        """The name of a network's optimizer."""
        common = self.settings.optimizer.chosen(on_card=self.on_card)
        return (network == "text_encoder" and self.settings.text_encoder.text_encoder_optimizer) or common

    def variant(self, *, with_text: bool) -> str:
        """The name of the traced training step; `with_text` includes the text encoder if it is trained."""
        memory = self.settings.memory
        if self.features.lora_rank:
            trained = "lora"
        elif not self.trains_unet:
            trained = "text_encoder"
        else:
            trained = "both" if with_text and self.trains_text else "unet"
        times = "twice" if memory.gradient_checkpointing else "once"
        if self.has_half_weights and trained == "unet" and self.precision == "half":
            return f"half/unet/{times}/sdp/half"
        if memory.attn_type == "slice":
            sliced = f"{self.precision}/{trained}/{times}/slice/fp32"
            if sliced in self.shape.traced.training:  # not traced for LoRA
                return sliced
        return f"{self.precision}/{trained}/{times}/sdp/fp32"

    def weights(self) -> float:
        """Bytes of all weights on the device, trained ones in training precision."""
        total: float = 0 if self.features.cached_latents else self.frozen_bytes * self.shape.numbers("vae")
        is_trained = {"unet": self.trains_unet, "text_encoder": self.trains_text}
        for network in NETWORKS:
            if network == "text_encoder" and self.features.cached_text:
                continue
            each = self.trained_bytes if is_trained[network] else self.frozen_bytes
            total += each * self.shape.numbers(network)
        return total + (4 * self.trained["unet"].numbers if self.features.lora_rank else 0)

    def gradients(self) -> float:
        """Bytes of all gradients."""
        return (4 if self.features.lora_rank else self.trained_bytes) * self._trained_numbers

    def average(self) -> float:
        """Bytes of the EMA, if it is on the device that trains."""
        own = self.settings.ema
        is_here = own.is_on and (own.ema_device == "cuda" or not self.on_card)
        return 4 * self._trained_numbers if is_here else 0.0

    @property
    def _trained_numbers(self) -> float:
        return sum(trained.numbers for trained in self.trained.values())

    def optimizer_state(self) -> float:
        """Bytes of the optimizers' state."""
        return sum(state_bytes(self.optimizer(name), trained) for name, trained in self.trained.items())

    def optimizer_update(self) -> float:
        """Bytes that an optimizer allocates during an update; one network is updated after the other."""
        copies = 4 * FP32_COPIES * max(trained.largest for trained in self.trained.values())
        own = max(update_bytes(self.optimizer(name), trained) for name, trained in self.trained.items())
        return own + (copies if self.has_half_weights or self.frees_gradients else 0.0)

    def largest_tensor(self) -> float:
        """Bytes of the largest trained tensor."""
        return 4 * max(trained.largest for trained in self.trained.values())
