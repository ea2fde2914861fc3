"""The names of the curves that a run logs: its TensorBoard tags, and the keys of the values in `events.jsonl`."""

from collections.abc import Mapping

LOSS = "loss/log_step"
LOSS_EPOCH = "loss/epoch"
LOSS_VAL = "loss/val"
LOSS_STABILIZED = "loss/train_stabilized"
LR = "hyperparameter/lr "
"""Followed by the name of the network."""
LR_UNET = f"{LR}unet"
LR_TEXT_ENCODER = f"{LR}text encoder"
LR_TEXT_ENCODER_2 = f"{LR}text encoder 2"
GRAD_SCALE = "hyperparameter/grad scale"
GRAD_NORM = "optimizer/grad_norm"
PERFORMANCE = "performance/"
"""Prefix of the curves that measure time or memory, which differ even between otherwise identical runs."""
IMAGES_PER_SECOND = f"{PERFORMANCE}images per second"
MINUTES_PER_EPOCH = f"{PERFORMANCE}minutes per epoch"
VRAM = f"{PERFORMANCE}vram"


def lr_curve(part: str) -> str:
    """The curve of the learning rate of a part of the model."""
    return LR + part.replace("_", " ")


def main_lr(values: Mapping[str, float]) -> float | None:
    """The learning rate to show where there is room for one, the UNet's if it is trained; None if none was logged."""
    for curve in (LR_UNET, LR_TEXT_ENCODER, LR_TEXT_ENCODER_2):
        if curve in values:
            return values[curve]
    return None
