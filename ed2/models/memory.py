"""Running out of memory: recognising it, and saving memory by gradient checkpointing."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ed2.data.buckets import Size
from ed2.models.base import DiffusionModel, trained_parts

NEARLY_FULL = 0.9
"""Used share of a GPU's memory from which unused memory is released before images of another size."""

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS and bitsandbytes
    "DefaultCPUAllocator",  # can't allocate memory (Linux), not enough memory (Windows)
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSPARSE
    "CUBLAS_STATUS_NOT_INITIALIZED",  # from cublasCreate, when its workspace does not fit
    "HOST_ALLOCATION_FAILED",  # cuDNN
)
"""Messages of libraries that report it as a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that GPU memory or main memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_memory(device: torch.device) -> None:
    """Free unused memory. Call it after the `except` block, since the error holds on to its tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        release_pinned_memory()


def release_pinned_memory() -> None:
    """Give main memory that was pinned for a GPU back to the system; PyTorch keeps what is freed of it."""
    if torch.cuda.is_initialized() and hasattr(torch.accelerator, "empty_host_cache"):  # not in older versions
        torch.accelerator.empty_host_cache()


@dataclass
class RoomForSizes:
    """Makes room on a nearly full GPU before images of another size.

    PyTorch keeps memory that it has freed, in blocks for images of one size, which those of another may not fit. When
    the GPU is full it releases them; but on Windows the driver takes system memory before that, and every later step is
    slow.

    Attributes:
        fullness: reads the used share of the GPU's memory.
        release: frees what PyTorch keeps unused.
    """

    fullness: Callable[[], float]
    release: Callable[[], object]
    _bucket: Size | None = None

    def __call__(self, bucket: Size) -> None:
        """Make room before images of this size, if those before had another."""
        before, self._bucket = self._bucket, bucket
        if before not in (None, bucket) and self.fullness() >= NEARLY_FULL:
            self.release()


def enable_checkpointing(model: DiffusionModel) -> None:
    """Recompute activations inside blocks in the backward pass, instead of keeping them."""
    for network in _with_gradients(model):
        if hasattr(network, "activation_checkpointing_enable"):  # transformers
            network.activation_checkpointing_enable()
        elif hasattr(network, "gradient_checkpointing_enable"):  # by its older name
            network.gradient_checkpointing_enable()
        else:  # diffusers
            network.enable_gradient_checkpointing()


def uses_checkpointing(model: DiffusionModel) -> bool:
    """Whether gradient checkpointing is already on everywhere."""
    return all(map(_is_checkpointed, _with_gradients(model)))


def _is_checkpointed(network: Any) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in network.modules())


def _with_gradients(model: DiffusionModel) -> list[Any]:
    """The trained networks and the denoiser, through which the gradient of a text encoder comes."""
    networks = [model.denoiser]
    for part in trained_parts(model).values():
        if part.module is not model.denoiser:
            networks.append(part.module)
    return networks
