"""What to change after the memory did not suffice for a run."""

import torch

from ed2.app.optimizing import chosen_optimizer
from ed2.settings.schema import RESOLUTIONS, Settings

NUM_PROPOSALS = 3
SMALL_STATE = ("adamw8bit", "lion8bit", "adafactor")
"""Optimizers with 2 bytes of state or less for each trained number; the others take 4 to 16."""


def memory_advice(settings: Settings, device: torch.device) -> str:
    """The three settings whose change saves most, in a sentence."""
    first, *others = proposals(settings, device)[:NUM_PROPOSALS]
    return f"Change one or more of these: {'; '.join([first, *others])}."


def proposals(settings: Settings, device: torch.device) -> list[str]:
    """What would lower the memory of a run that did not fit even one image at a time, the most helpful first."""
    train, data, memory = settings.model, settings.data, settings.memory
    is_card = device.type == "cuda"
    optimizer = chosen_optimizer(settings, device)
    lower = [resolution for resolution in RESOLUTIONS if resolution < data.resolution]
    possible = {
        "--optimizer adamw8bit (2 bytes of state for each weight instead of 4 to 16)": optimizer not in SMALL_STATE,
        "--grad_accum 1 (gradients do not wait for the next batch)": data.grad_accum > 1,
        "--ema_device cpu": settings.ema.is_on and settings.ema.ema_device == "cuda" and is_card,
        "--amp": is_card and not memory.amp,
        "--disable_textenc_training": not train.disable_textenc_training and not train.disable_unet_training,
        "--attn_type sdp": memory.attn_type == "slice",
        f"--resolution {max(lower, default=0)}": bool(lower),
        "--gradient_checkpointing": not memory.gradient_checkpointing,
        "--batch_size 1": data.batch_size > 1,
    }
    wanted = [text for text, helps in possible.items() if helps]
    return [*wanted, "close other programs that use this memory", "train on a machine with more of it"]
