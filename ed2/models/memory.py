"""Where and how precisely to compute: device, mixed precision, gradient checkpointing; and lack of memory."""

import gc
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ed2.models.base import DiffusionModel, trained_parts
from ed2.text import counted

FIRST_SCALE = 2.0**16
GROWTH_STEPS = 500
"""Steps without overflow after which the fp16 scaler doubles its scale."""
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS and bitsandbytes
    "DefaultCPUAllocator",  # can't allocate memory (Linux), not enough memory (Windows)
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSPARSE
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cublasCreate says where its workspace has no place
    "HOST_ALLOCATION_FAILED",  # cuDNN
)
"""What libraries say that report a lack of memory as a plain RuntimeError."""


@dataclass
class Precision:
    """Mixed precision: autocast, and a loss scaler under fp16.

    Weights and optimizer stay in fp32; `dtype` None computes in fp32 throughout.
    """

    device: torch.device
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler = field(init=False)
    _is_unscaled: bool = field(init=False, default=False)

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
        self._is_unscaled = True
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
            parameters += [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm is not None else torch.inf)

    def forget(self) -> None:
        """Forget gradients that were unscaled and are not used: the step is done again, at the same scale."""
        if self._is_unscaled and self.scaler.is_enabled():
            self.scaler.update(self.scale)  # a scale that is given is kept, and no overflow is counted
        self._is_unscaled = False

    def step_or_skip(self, is_finite: Tensor) -> bool:
        """Read the one flag of a step from the device: True to step, False to skip. Adjusts the scale under fp16."""
        self.scaler.update()
        self._is_unscaled = False
        return bool(is_finite)


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
            raise ValueError(f"{setting} is not there: PyTorch sees {counted(count, 'card')}")
        return torch.device("cuda", device.index or 0)
    return device


def choose_dtype(device: torch.device, *, amp: bool, amp_dtype: str | None) -> torch.dtype | None:
    """The format of mixed precision on `device`: bf16 where the card has it, else fp16; None is fp32, as on a CPU."""
    if not amp or device.type == "cpu":
        return None
    if amp_dtype:
        return {"fp16": torch.float16, "bf16": torch.bfloat16}[amp_dtype]
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that a card's memory, or the computer's, does not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_memory(device: torch.device) -> None:
    """Give back what nobody uses any more. Call it after the `except` block: an error holds on to its tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def enable_checkpointing(model: DiffusionModel) -> None:
    """Keep no activations inside the blocks of networks with a gradient; compute them again in the backward pass."""
    for network in _with_gradients(model):
        if hasattr(network, "gradient_checkpointing_enable"):  # transformers
            network.gradient_checkpointing_enable()
        else:  # diffusers
            network.enable_gradient_checkpointing()


def uses_checkpointing(model: DiffusionModel) -> bool:
    """Whether `enable_checkpointing` has nothing left to do."""
    return all(
        any(getattr(module, "gradient_checkpointing", False) for module in network.modules())
        for network in _with_gradients(model)
    )


def _with_gradients(model: DiffusionModel) -> list[Any]:
    """The trained networks and the denoiser, through which the gradient of a text encoder comes."""
    trained = [part.module for part in trained_parts(model).values()]
    return [model.denoiser, *(network for network in trained if network is not model.denoiser)]
