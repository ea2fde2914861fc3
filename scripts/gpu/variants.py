"""Which trainings are measured, the most telling first: where time runs out, the last ones are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LORA = {"method": "lora", "lora_rank": 16, "optimizer": "adamw8bit"}
CACHED = {"cache_latents": True, "cache_text": True, "cache_variants": 1}
ADAM_8BIT = {"optimizer": "adamw8bit"}
LOW_MEMORY = {"weights_dtype": "bf16", "fused_backward": True, "optimizer": "adamw8bit"}
UNET_ONLY = {"disable_textenc_training": True}
CHECKPOINTING = {"gradient_checkpointing": True}


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        options: settings by their names.
        cap_gb: the GPU memory that it may use, in GB of 2**30 bytes; None for all.
        does: what else is measured in it: "save" and "sample".
    """

    family: str
    resolution: int
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    cap_gb: int | None = None
    does: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For the table."""
        cap = f", at most {self.cap_gb} GB" if self.cap_gb else ""
        return f"{self.family} {self.resolution}, {self.what}{cap}"


def variants() -> Iterator[Variant]:
    """Every training."""
    yield Variant("sd1", 512, "full, 8-bit Adam", UNET_ONLY | ADAM_8BIT, does=("save", "sample"))
    yield Variant("sdxl", 1024, "LoRA, cached", LORA | CACHED | UNET_ONLY)
    yield from _caps()
    yield from _ways_to_compute()
    for resolution in (512, 768, 1024):
        yield Variant("sd1", resolution, "LoRA", LORA | UNET_ONLY)
        yield Variant("sd1", resolution, "LoRA, cached", LORA | CACHED | UNET_ONLY)
        yield Variant("sd1", resolution, "full, cached", UNET_ONLY | CACHED | ADAM_8BIT)
        yield Variant("sd1", resolution, "full, bf16 and fused", LOW_MEMORY | UNET_ONLY)
        yield Variant("sd1", resolution, "full, xformers", UNET_ONLY | ADAM_8BIT | {"attn_type": "xformers"})
        yield Variant("sdxl", resolution, "LoRA", LORA | UNET_ONLY)
        yield Variant("sdxl", resolution, "full, bf16 and fused", LOW_MEMORY | UNET_ONLY | CHECKPOINTING)
    yield Variant("sd1", 512, "full, AdamW", UNET_ONLY | {"optimizer": "adamw"})


def _ways_to_compute() -> Iterator[Variant]:
    """Switches whose use depends on the GPU; the same without the first two is measured before."""
    plain = UNET_ONLY | ADAM_8BIT
    yield Variant("sd1", 512, "full, 8-bit Adam, channels last", plain | {"channels_last": True})
    yield Variant("sd1", 512, "full, 8-bit Adam, cuDNN tried", plain | {"cudnn_benchmark": True})
    fp32 = UNET_ONLY | {"optimizer": "adamw", "amp": False}
    yield Variant("sd1", 512, "full, AdamW in fp32", fp32)
    yield Variant("sd1", 512, "full, AdamW in fp32, TF32", fp32 | {"tf32": "on"})


def _caps() -> Iterator[Variant]:
    """Trainings that are said to fit in 12 and in 24 GB, with no more than that."""
    one = {"batch_size": 1}
    yield Variant("sd1", 512, "full, 8-bit Adam, checkpointing", UNET_ONLY | CHECKPOINTING | ADAM_8BIT | one, 12)
    yield Variant("sdxl", 1024, "LoRA, cached, checkpointing", LORA | CACHED | UNET_ONLY | CHECKPOINTING | one, 12)
    yield Variant("sd1", 768, "full, 8-bit Adam, checkpointing", UNET_ONLY | CHECKPOINTING | ADAM_8BIT, 24)
    yield Variant("sdxl", 1024, "full, bf16 and fused", LOW_MEMORY | UNET_ONLY | CHECKPOINTING | one, 24)


def tiny_variants() -> Iterator[Variant]:
    """The same kinds on a tiny model, to see that everything works where there is no GPU."""
    plain = UNET_ONLY | {"optimizer": "adamw"}
    yield Variant("sd1", 64, "full", plain, does=("save", "sample"))
    yield Variant("sdxl", 64, "LoRA, cached", plain | CACHED | {"method": "lora", "lora_rank": 2})
    yield Variant("sd1", 64, "full, bf16 and fused", {"weights_dtype": "bf16", "fused_backward": True} | plain, 12)
    yield Variant("sd1", 64, "full, xformers", plain | {"attn_type": "xformers"})
