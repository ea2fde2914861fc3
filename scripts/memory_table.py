#!/usr/bin/env python3
"""Write the tables of docs/memory.md: published measurements next to the plan, and what fits on which GPU.

python scripts/memory_table.py [page]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ed2.settings.schema import Settings  # noqa: E402
from ed2.vram.card import Card  # noqa: E402
from ed2.vram.memory_model import PlannedFeatures  # noqa: E402
from ed2.vram.memory_options import Search  # noqa: E402
from ed2.vram.overhead import ON_CARD  # noqa: E402
from ed2.vram.plan import plan_memory  # noqa: E402
from ed2.vram.shapes import shape_of  # noqa: E402

PAGE = ROOT / "docs" / "memory.md"
GB, MIB = 1e9 / 2**30, 1 / 1024
"""From the units of a source to ours, 2**30 bytes."""
STEP = ("encoding", "forward", "backward", "optimizer")
CARDS = (12, 16, 24)
MOST = 64


@dataclass(frozen=True)
class Published:
    """A published measurement.

    Attributes:
        source: where.
        text: the configuration in the words of the source.
        gb: the published figure, in GB of 2**30 bytes.
        values: the configuration as settings.
        features: what has no setting.
        assumed: assumptions where the source says nothing.
        bound: `<` if the source only says that it fits, `>` if it only says that it does not.
    """

    source: str
    text: str
    gb: float
    values: dict[str, object]
    features: PlannedFeatures = field(default_factory=PlannedFeatures)
    family: str = "sd1"
    assumed: str = ""
    bound: str = ""
    card: Card = field(default_factory=Card)

    @property
    def planned_gb(self) -> float:
        """The planned peak of a training step; these measurements drew no samples."""
        given = Settings().replaced(**{"optimizer": "adamw8bit", **self.values})
        plan = plan_memory(given, shape_of(self.family), card=self.card, features=self.features)
        allocated = max(plan.by_phase[phase] for phase in STEP if phase in plan.by_phase)
        return ON_CARD.reserved[1] * allocated + ON_CARD.context_gb[1]


UNET_ONLY = {"disable_textenc_training": True}
CACHED = PlannedFeatures(cached_latents=True, cached_text=True)
SHIVAM = "ShivamShrirao/diffusers, T4"
TWO = "prior preservation: two images for one of the batch; GB of 10^9 bytes, else more than a T4 has"
TORCH_1 = f"{TWO}; AdamW of PyTorch 1.13, one tensor at a time"


def _shivam(gb: float, batch: int, accumulated: int, **values: object) -> Published:
    amp = "fp16" if values.get("amp", True) else "fp32"
    again = "on" if values.get("gradient_checkpointing") else "off"
    optimizer = "AdamW" if values.get("optimizer") == "adamw" else "8-bit Adam"
    text = f"{amp}, batch {batch}, accumulation {accumulated}, checkpointing {again}, {optimizer}"
    given = {**UNET_ONLY, "batch_size": 2 * batch, "grad_accum": accumulated, **values}
    return Published(SHIVAM, text, gb * GB, given, CACHED, assumed=TORCH_1 if optimizer == "AdamW" else TWO)


def _pr2039(mib: int, batch: int, resolution: int) -> Published:
    values = {"gradient_checkpointing": True, "batch_size": batch, "resolution": resolution}
    text = f"fp16, {resolution}, batch {batch}, checkpointing on, 8-bit Adam, text encoder trained"
    assumed = "images encoded one by one; near the GPU's limit, so the allocator may have released its reserve"
    return Published("diffusers PR #2039, RTX 3060 12 GB", text, mib * MIB, values, assumed=assumed)


ON = {"gradient_checkpointing": True}
SDXL = {**UNET_ONLY, **ON, "resolution": 1024, "batch_size": 1, "optimizer": "adafactor"}
FUSED = {**SDXL, "fused_backward": True}
FUSED_HALF = {**FUSED, "weights_dtype": "bf16"}
RESIDENT = PlannedFeatures()
ATTENTION = {"method": "lora", "lora_rank": 4, "lora_layers": "attention"}
LOW = {"weights_dtype": "bf16", "fused_backward": True, "optimizer": "adafactor"}
S1259 = "sd-scripts PR #1259"
TEXT_12 = {"gradient_checkpointing": True, "batch_size": 2}

ROWS = (
    _shivam(9.92, 1, 1, **ON),
    _shivam(10.08, 1, 1, **ON, amp=False),
    _shivam(10.4, 2, 1, **ON),
    _shivam(11.17, 1, 1),
    _shivam(11.17, 1, 1, amp=False),
    _shivam(11.56, 1, 2, **ON),
    _shivam(13.67, 2, 1),
    _shivam(13.7, 1, 2),
    _shivam(15.79, 1, 1, **ON, optimizer="adamw"),
    _shivam(17.7, 1, 1, amp=False, optimizer="adamw"),
    _pr2039(11124, 1, 512),
    _pr2039(11694, 5, 512),
    _pr2039(11450, 1, 768),
    _pr2039(11598, 1, 1024),
    Published(S1259, "SDXL 1024, batch 1, bf16 weights, Adafactor in the backward pass, checkpointing on, caches", 10.0,
              FUSED_HALF, CACHED, "sdxl", "text encoders and VAE not on the GPU, as 'caches' says"),
    Published(S1259, "the same", 10.0, FUSED_HALF, RESIDENT, "sdxl", "text encoders and VAE still on the GPU, in bf16"),
    Published("OneTrainer, as told in sd-scripts PR #1259", "SDXL, weights updated in the backward pass", 10.3,
              FUSED_HALF, RESIDENT, "sdxl", "1024, batch 1, bf16 weights, UNet only, as its preset; text encoders and "
              "VAE on the GPU"),
    Published(S1259, "SDXL 1024, batch 1, fp32 weights, else the same", 16.4, FUSED, CACHED, "sdxl",
              "text encoders and VAE not on the GPU"),
    Published(S1259, "the same in bf16, batch 16, 'fits 24 GB'", 24.0, {**FUSED_HALF, "batch_size": 16}, RESIDENT,
              "sdxl", "text encoders and VAE still on the GPU", bound="<"),
    Published(S1259, "the same in fp32, batch 6, 'fits 24 GB'", 24.0, {**FUSED, "batch_size": 6}, CACHED, "sdxl",
              "text encoders and VAE not on the GPU", bound="<"),
    Published("kohya_ss #2530", "SDXL 1024, batch 1, full fp16, 8-bit Adam, checkpointing on, 'about 19 GB'", 19.0,
              {**SDXL, "weights_dtype": "bf16", "optimizer": "adamw8bit"}, RESIDENT, "sdxl",
              "nothing cached; a round figure", bound="<"),
    Published("EveryDream 2, LOWVRAM.md", "512, batch 2, checkpointing on, text encoder trained, 'fits 12 GB'", 12.0,
              TEXT_12, assumed="amp and 8-bit Adam", bound="<"),
    Published("EveryDream #3", "512, batch 1, checkpointing off, out of memory at 11.28 GB on 12 GB", 11.5,
              {"batch_size": 1, "grad_accum": 2}, assumed="gradients kept between steps", bound=">"),
    Published("d8ahazard/sd_dreambooth_extension, discussion #912", "512, fp16, 8-bit, batch 10 with checkpointing on "
              "12 GB", 12.0, {**UNET_ONLY, **ON, "batch_size": 10}, CACHED,
              assumed="UNet only, latents and captions cached", bound="<"),
    Published("sd-scripts README", "SDXL LoRA 1024, rank 8, checkpointing on, cached, '8 GB, 10 recommended'", 8.0,
              {**SDXL, "optimizer": "adamw8bit", "method": "lora", "lora_rank": 8}, CACHED,
              "sdxl", "batch 1", bound="<"),
    Published("diffusers, examples/text_to_image/README_sdxl.md", "SDXL LoRA 1024, rank 4, checkpointing on, 8-bit "
              "Adam, 'less than 16 GB'", 16.0, {**SDXL, **ATTENTION, "optimizer": "adamw8bit"}, RESIDENT, "sdxl",
              "batch 1", bound="<"),
    Published("diffusers, examples/text_to_image/README.md", "SD 1.5 LoRA 512, rank 4, batch 1, checkpointing off, on "
              "an RTX 2080 Ti with 11 GB", 11.0, {**UNET_ONLY, **ATTENTION, "batch_size": 1, "optimizer": "adamw"},
              RESIDENT, bound="<"),
)  # fmt: skip


def published_table() -> str:
    """The published measurements next to the plan."""
    lines = ["| source | configuration | published | planned | error | assumed |", "|---|---|---:|---:|---:|---|"]
    for row in ROWS:
        planned = row.planned_gb
        error = "bound" if row.bound else f"{planned / row.gb - 1:+.0%}"
        mark = f"{row.bound} " if row.bound else ""
        lines.append(f"| {row.source} | {row.text} | {mark}{row.gb:.2f} | {planned:.2f} | {error} | {row.assumed} |")
    return "\n".join(lines)


def errors_line() -> str:
    """The error of the plan against the measurements, in one sentence."""
    errors = [row.planned_gb / row.gb - 1 for row in ROWS if not row.bound]
    within = sum(abs(error) <= 0.1 for error in errors)
    return (
        f"Of the {len(errors)} measurements, {within} are within 10 %; the mean error is "
        f"{sum(errors) / len(errors):+.1%}, the worst {min(errors):+.0%} and {max(errors):+.0%}."
    )


def batch_table() -> str:
    """The largest batch that fits, by model, resolution and GPU memory."""
    heads = [f"{gb} GB, {again}" for gb in CARDS for again in ("off", "on")]
    lines = [f"| model | size | {' | '.join(heads)} |", "|---|---:|" + "---:|" * len(heads)]
    for family, name, sizes in (("sd1", "SD 1.5", (512, 640, 768, 1024)), ("sd2", "SD 2.1", (512, 768))):
        for size in sizes:
            cells = " | ".join(_batches(family, size))
            lines.append(f"| {name} | {size} | {cells} |")
    return "\n".join(lines)


def _batches(family: str, size: int) -> Iterator[str]:
    for gb in CARDS:
        search = Search(shape_of(family), Card.of_size(gb))
        for again in (False, True):
            settings = Settings().replaced(resolution=size, gradient_checkpointing=again)
            yield str(search.largest_batch(settings, MOST) or "-")


LARGE = (
    ("UNet", "bf16, in the backward pass", "Adafactor", {**UNET_ONLY, **LOW}),
    ("UNet", "bf16, in the backward pass", "8-bit Adam", {**UNET_ONLY, **LOW, "optimizer": "adamw8bit"}),
    ("UNet", "bf16", "8-bit Adam", {**UNET_ONLY, "weights_dtype": "bf16", "optimizer": "adamw8bit"}),
    ("UNet", "fp32, in the backward pass", "Adafactor", {**UNET_ONLY, **LOW, "weights_dtype": "fp32"}),
    (
        "UNet, first text encoder",
        "bf16, in the backward pass",
        "Adafactor",
        {**LOW, "disable_textenc_2_training": True},
    ),
    ("all three networks", "bf16, in the backward pass", "Adafactor", LOW),
    ("all three networks", "bf16, in the backward pass", "8-bit Adam", {**LOW, "optimizer": "adamw8bit"}),
    ("all three networks", "bf16", "8-bit Adam", {"weights_dtype": "bf16", "optimizer": "adamw8bit"}),
)
LARGE_BATCHES = (1, 2, 4, 8)


def large_table() -> str:
    """What SDXL takes at 1024 with gradient checkpointing: the expected figure, and the high end of its range."""
    heads = " | ".join(f"batch {batch}" for batch in LARGE_BATCHES)
    lines = [f"| trained | weights | optimizer | {heads} |", "|---|---|---|" + "---:|" * len(LARGE_BATCHES)]
    for trained, weights, optimizer, values in LARGE:
        cells = []
        for batch in LARGE_BATCHES:
            settings = Settings().replaced(**{**ON, **values, "resolution": 1024, "batch_size": batch})
            plan = plan_memory(settings, shape_of("sdxl"), card=Card())
            cells.append(f"{plan.expected_gb:.1f} ({plan.high_gb:.1f})")
        lines.append(f"| {trained} | {weights} | {optimizer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page_with_tables(text: str) -> str:
    """The page with new tables."""
    tables = {
        "published": published_table(),
        "errors": errors_line(),
        "batches": batch_table(),
        "large": large_table(),
    }
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page.write_text(page_with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(published_table(), errors_line(), batch_table(), large_table(), sep="\n\n")
