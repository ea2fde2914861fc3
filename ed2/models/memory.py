"""Where and how precisely to compute: device, mixed precision, gradient checkpointing."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

FIRST_SCALE = 2.0**16
GROWTH_STEPS = 500
"""Steps without overflow after which the fp16 scaler doubles its scale."""


@dataclass
class Precision:
    """Mixed precision: autocast, and a loss scaler under fp16.

    Weights and optimizer stay in fp32; `dtype` None computes in fp32 throughout.
    """

    device: torch.device
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        enabled = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=FIRST_SCALE, growth_interval=GROWTH_STEPS, enabled=enabled
        )

    @property
    def scale(self) -> float:
        """What the loss is multiplied by, 1 without a scaler."""
        return self.scaler.get_scale()

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Backpropagate; scales under fp16."""
        self.scaler.scale(loss).backward()

    def clip(self, optimizers: Iterable[torch.optim.Optimizer], max_norm: float | None) -> Tensor:
        """Unscale the gradients, shorten them to `max_norm` together, and return their length before, a tensor."""
        parameters = []
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
            parameters += [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm is not None else torch.inf)

    def step(self, optimizers: Iterable[torch.optim.Optimizer], grad_norm: Tensor) -> bool:
        """Update the weights if the gradients are finite; the one flag of a step that is read from the device.

        Returns:
            Whether the weights were updated.
        """
        finite = bool(torch.isfinite(grad_norm))
        if finite:
            for optimizer in optimizers:
                optimizer.step()
        self.scaler.update()
        return finite


def choose_device(setting: str) -> torch.device:
    """The device that the setting names; auto is the first card, else the CPU.

    Raises:
        ValueError: a card is asked for that is not there.
    """
    if setting == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(setting)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"{setting} is not there: PyTorch sees {count} card{'s' * (count != 1)}")
        return torch.device("cuda", device.index or 0)
    return device


def choose_dtype(device: torch.device, *, amp: bool, amp_dtype: str | None) -> torch.dtype | None:
    """The format of mixed precision on `device`: bf16 where the card has it, else fp16; None is fp32, as on a CPU."""
    if not amp or device.type == "cpu":
        return None
    if amp_dtype:
        return {"fp16": torch.float16, "bf16": torch.bfloat16}[amp_dtype]
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def checkpoint_gradients(networks: Iterable[Any]) -> None:
    """Keep no activations inside the blocks of `networks`; compute them again in the backward pass.

    The UNet is one of them also where it is not trained: the text encoder's gradient comes through it.
    """
    for network in networks:
        if hasattr(network, "gradient_checkpointing_enable"):  # transformers
            network.gradient_checkpointing_enable()
        else:  # diffusers
            network.enable_gradient_checkpointing()
