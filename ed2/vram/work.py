"""What a run has on the card, told from its settings: which networks are trained, in which format, how much of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.optimizers import Trained, state_bytes, step_bytes
from ed2.vram.shapes import ModelShape

NETWORKS = ("unet", "text_encoder")


@dataclass(frozen=True)
class Beyond:
    """What can be planned and has no setting.

    Attributes:
        cached_latents: the images' latents were computed before, and the VAE is not on the card.
        cached_text: the same of the captions and the text encoder.
        lora_rank: adapters of this rank are trained in the UNet's attention, and nothing else; 0 trains the model.
        half_weights: the UNet's trained weights and gradients are in half precision themselves.
        fused_backward: the optimizer takes each gradient as it comes, so that they are never all there.
    """

    cached_latents: bool = False
    cached_text: bool = False
    lora_rank: int = 0
    half_weights: bool = False
    fused_backward: bool = False


@dataclass(frozen=True)
class Work:
    """The settings of a run as far as memory is concerned."""

    settings: Settings
    shape: ModelShape
    card: Card
    beyond: Beyond

    @property
    def on_card(self) -> bool:
        """Whether the run computes on a card, not on the CPU."""
        return self.card.kind == "cuda"

    @property
    def copies_by_pixel(self) -> bool:
        """Whether a card's convolutions copy what they read and write, since it does not lie by pixel already."""
        return self.on_card and not self.settings.memory.channels_last

    @property
    def precision(self) -> str:
        """`half` under mixed precision, which a CPU has none of."""
        return "half" if self.settings.memory.amp and self.on_card else "fp32"

    @property
    def frozen_bytes(self) -> int:
        """Bytes of a weight that is not trained."""
        return 2 if self.precision == "half" else 4

    @property
    def trained_bytes(self) -> int:
        """Bytes of a weight that is trained, and of its gradient."""
        return 2 if self.beyond.half_weights else 4

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
        """Whether gradients of one batch wait while the next is computed."""
        return self.settings.data.grad_accum > 1

    @property
    def trains_unet(self) -> bool:
        """Whether the UNet's own weights are trained."""
        return not self.settings.model.disable_unet_training and not self.beyond.lora_rank

    @property
    def trains_text(self) -> bool:
        """Whether any of the text encoder is trained."""
        return not self.settings.model.disable_textenc_training and not self.beyond.lora_rank

    @property
    def casts_unet(self) -> bool:
        """Whether autocast keeps a copy of the UNet's weights while samples are drawn."""
        return self.trains_unet and self.precision == "half" and not self.beyond.half_weights

    @cached_property
    def trained(self) -> Mapping[str, Trained]:
        """What is trained of each network."""
        counts = self.shape.traced.parameters
        if self.beyond.lora_rank:
            numbers = self.beyond.lora_rank * self.shape.traced.adapters_per_rank
            return {"unet": Trained(numbers, 0, numbers / 100, numbers)}
        found = {}
        if self.trains_unet:
            found["unet"] = Trained.share_of(counts["unet"], self.shape.numbers("unet"))
        if self.trains_text:
            found["text_encoder"] = Trained.share_of(counts["text_encoder"], self._text_numbers)
        return found

    @property
    def _text_numbers(self) -> float:
        """How many of the text encoder's weights are trained."""
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
        """What is trained of the text encoder, for each weight of the traced one."""
        trained = self.trained.get("text_encoder")
        return trained.numbers / self.shape.traced.parameters["text_encoder"]["all"] if trained else 0.0

    @property
    def text_depth(self) -> float:
        """Share of the text encoder's layers that keep activations."""
        return 1 - self._frozen_layers / self.shape.traced.parameters["text_encoder"]["layers"]

    def optimizer(self, network: str) -> str:
        """The name of a network's optimizer."""
        own = self.settings.text_encoder.text_encoder_optimizer if network == "text_encoder" else None
        return own or self.settings.optimizer.chosen(on_card=self.on_card)

    def variant(self, *, with_text: bool) -> str:
        """The name of the traced course of a training step; `with_text` counts a text encoder in that is trained."""
        memory = self.settings.memory
        if self.beyond.lora_rank:
            trained = "lora"
        elif not self.trains_unet:
            trained = "text_encoder"
        else:
            trained = "both" if with_text and self.trains_text else "unet"
        attention = "slice" if memory.attn_type == "slice" and trained != "lora" else "sdp"
        times = "twice" if memory.gradient_checkpointing else "once"
        if self.beyond.half_weights and trained == "unet" and self.precision == "half":
            return f"half/unet/{times}/sdp/half"
        name = "/".join((self.precision, trained, times, attention, "fp32"))
        return name if name in self.shape.traced.training else name.replace("/slice/", "/sdp/")

    def weights(self) -> float:
        """Bytes of all weights on the card, those that are trained in the precision of training."""
        total: float = 0 if self.beyond.cached_latents else self.frozen_bytes * self.shape.numbers("vae")
        is_trained = {"unet": self.trains_unet, "text_encoder": self.trains_text}
        for network in NETWORKS:
            if network == "text_encoder" and self.beyond.cached_text:
                continue
            each = self.trained_bytes if is_trained[network] else self.frozen_bytes
            total += each * self.shape.numbers(network)
        return total + (4 * self.trained["unet"].numbers if self.beyond.lora_rank else 0)

    def gradients(self) -> float:
        """Bytes of all gradients."""
        each = 4 if self.beyond.lora_rank else self.trained_bytes
        return each * sum(trained.numbers for trained in self.trained.values())

    def average(self) -> float:
        """Bytes of the moving average, where it lies beside the weights."""
        own = self.settings.ema
        is_here = own.is_on and (own.ema_device == "cuda" or not self.on_card)
        return 4 * sum(trained.numbers for trained in self.trained.values()) if is_here else 0.0

    def optimizer_state(self) -> float:
        """Bytes that the optimizers keep."""
        return sum(state_bytes(self.optimizer(name), trained) for name, trained in self.trained.items())

    def optimizer_step(self) -> float:
        """Bytes that an optimizer takes while it steps; one network steps after the other."""
        return max(step_bytes(self.optimizer(name), trained) for name, trained in self.trained.items())

    def largest_tensor(self) -> float:
        """Bytes of the largest trained tensor."""
        return 4 * max(trained.largest for trained in self.trained.values())
