"""How to compute: device, mixed precision, determinism, attention, compilation."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ed2.errors import first_line
from ed2.models.base import DiffusionModel
from ed2.text import counted

FIRST_SCALE = 2.0**16
CLIP_EPSILON = 1e-6
"""Added to a norm that gradients are divided by, as `clip_grad_norm_` does."""
GROWTH_STEPS = 500
"""Steps without overflow after which the fp16 scaler doubles its scale."""
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""What cuBLAS needs for reproducible sums. Read once, when a program first uses a GPU."""

NOT_LOADED = ("bitsandbytes", "peft")
"""Packages that diffusers and transformers load wherever they are installed, which takes 1.5 s of CPU. This program
calls them itself, in runs that need them."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats by the names that settings have for them."""


@dataclass
class Precision:
    """Mixed precision: autocast, and a loss scaler under fp16.

    The optimizer computes in fp32, whatever the weights are in; `dtype` None computes in fp32 throughout.
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
        """The factor on the loss, 1 without a scaler."""
        return self.scaler.get_scale()

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if not self.dtype:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate; scales under fp16."""
        self.scaler.scale(loss).backward()

    def clip(
        self, optimizers: Iterable[torch.optim.Optimizer], max_norm: float | None, norm: Tensor | None = None
    ) -> Tensor:
        """Unscale the gradients, clip their common norm to `max_norm`, and return the unclipped norm, a tensor.

        Args:
            optimizers: of all parameters.
            max_norm: None for no clipping.
            norm: of these gradients and others, where it is known.
        """
        parameters = []
        self._is_unscaled = True
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
            for group in optimizer.param_groups:
                parameters += [p for p in group["params"] if p.grad is not None]
        if norm is None:
            norm = _norm_of([p.grad for p in parameters if p.grad is not None])
        # Rather than a pass over all gradients that multiplies them by 1 at most steps. Not on a GPU: reading the norm
        # would wait for it a second time in the step.
        if max_norm is not None and (norm.is_cuda or max_norm / (norm + CLIP_EPSILON) < 1):
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def forget(self) -> None:
        """Forget that gradients were unscaled: they are dropped, and the step is retried at the same scale."""
        if self._is_unscaled and self.scaler.is_enabled():
            self.scaler.update(self.scale)  # with an explicit scale, it keeps that and counts no overflow
        self._is_unscaled = False

    def step_or_skip(self, is_finite: Tensor) -> bool:
        """Read the one flag of a step from the device: True to step, False to skip. Adjusts the scale under fp16."""
        self.scaler.update()
        self._is_unscaled = False
        return bool(is_finite)


def _norm_of(gradients: list[Tensor]) -> Tensor:
    """The norm of all of them as one vector."""
    if any(gradient.dtype is torch.bfloat16 for gradient in gradients):  # which has two digits
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        return torch.linalg.vector_norm(torch.stack(norms))
    return nn.utils.get_total_norm(gradients)


def choose_device(setting: str) -> torch.device:
    """The device that the setting names; auto is the first GPU, else the CPU.

    Raises:
        ValueError: there is no such GPU.
    """
    if setting == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(setting)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"{setting} does not exist: PyTorch sees {counted(count, 'GPU')}")
        return torch.device("cuda", device.index or 0)
    return device


def choose_dtype(device: torch.device, *, amp: bool, amp_dtype: str | None) -> torch.dtype | None:
    """The format of mixed precision on `device`: bf16 if the GPU supports it, else fp16; None is fp32, as on a CPU."""
    if not amp or device.type == "cpu":
        return None
    if amp_dtype:
        return DTYPES[amp_dtype]
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


@contextmanager
def computing(device: torch.device, *, exact: bool, tf32: bool, benchmark: bool) -> Iterator[None]:
    """Set how a GPU computes, and restore it afterwards; nothing for a CPU.

    Source: PyTorch, notes on randomness and on CUDA semantics.

    Args:
        device: what computes.
        exact: whether a repeated computation gives the same bytes, at some cost in speed; a CPU always does. PyTorch
            warns of each operation that has no deterministic form.
        tf32: whether products and convolutions in fp32 use 10 bits of each factor.
        benchmark: whether cuDNN tries its algorithms for each new shape of tensors; not if it is exact.
    """
    os.environ.setdefault(*CUBLAS_WORKSPACE)  # even if not needed now: the next run of this program may need it
    if device.type != "cuda":
        yield
        return
    cudnn, attention = torch.backends.cudnn, torch.backends.cuda
    with ExitStack() as stack:
        # By the older names: torch.compile reads them, and PyTorch refuses to mix them with `fp32_precision`.
        _set(stack, attention.matmul, allow_tf32=tf32)
        _set(stack, cudnn, allow_tf32=tf32, benchmark=benchmark and not exact)
        stack.callback(attention.enable_mem_efficient_sdp, attention.mem_efficient_sdp_enabled())
        stack.callback(attention.enable_cudnn_sdp, attention.cudnn_sdp_enabled())
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        is_on = torch.are_deterministic_algorithms_enabled()
        stack.callback(torch.use_deterministic_algorithms, is_on, warn_only=only_warns)
        if exact:
            _set(stack, cudnn, deterministic=True)
            torch.use_deterministic_algorithms(True, warn_only=True)
            attention.enable_mem_efficient_sdp(False)  # sums its gradients in any order; flash has a deterministic mode
            attention.enable_cudnn_sdp(False)
        # bitsandbytes and NCCL wait for the current GPU, and so would take memory on the first one in each process.
        stack.enter_context(torch.cuda.device(-1 if device.index is None else device.index))
        yield


def _set(stack: ExitStack, owner: Any, **values: bool) -> None:
    """Set attributes until the stack is left."""
    for name, value in values.items():
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def choose_attention(model: DiffusionModel, kind: str, device: torch.device) -> str:
    """Set the attention to sdp, slice or xformers; returns why that is not possible here, empty if it is.

    PyTorch's own then never uses that of cuDNN, whose backward pass gives NaN on some GPUs since PyTorch 2.11.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    if kind == "slice":
        model.denoiser.set_attention_slice("auto")
    if kind == "xformers":
        if problem := xformers_problem(device):
            return f"xformers cannot be used ({problem}). Using PyTorch's own attention instead."
        # diffusers 0.42: set_attention_backend("xformers") silently does nothing to a UNet; this one raises.
        for part in model.parts.values():
            if hasattr(part.module, "enable_xformers_memory_efficient_attention"):  # not the text encoders
                part.module.enable_xformers_memory_efficient_attention()
    return ""


def xformers_problem(device: torch.device) -> str:
    """Why xformers does not work here, empty if it does: tries one tiny attention, forward and backward."""
    if device.type != "cuda":
        return "it needs a GPU"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # built for another PyTorch, it warns and then fails when called
            from xformers.ops import memory_efficient_attention

        query = torch.ones(1, 16, 2, 40, device=device, dtype=torch.float16, requires_grad=True)
        memory_efficient_attention(query, query, query).sum().backward()
    except Exception as error:  # a library of another build may raise anything
        return first_line(error)
    return ""


def compile_denoiser(model: DiffusionModel, device: torch.device) -> str:
    """Compile the UNet's transformer blocks for images of any size; returns why that is impossible, empty if it is not.

    The names of its weights stay the same.
    """
    try:
        probe = torch.compile(lambda numbers: numbers * 2 + 1)
        probe(torch.ones(8, device=device))
    except Exception as error:  # no compiler on this machine, or one that does not work
        return f"torch_compile cannot be used here ({first_line(error)}). The UNet is not compiled."
    model.denoiser.compile_repeated_blocks(dynamic=True)
    return ""


def quiet_libraries() -> None:
    """Load diffusers and transformers, and show only their errors and no progress bars.

    Called before anything else loads diffusers, it saves the time that the optional packages take to load.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # about an optional CPU kernel
    # Once diffusers is loaded, it has seen which packages there are, and cannot do without them any more.
    with _hidden(() if "diffusers" in sys.modules else NOT_LOADED):
        import diffusers
        import transformers
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextmanager
def _hidden(packages: Iterable[str]) -> Iterator[None]:
    """Let packages that are not loaded yet look as if they were not installed.

    Source: Python reference, "The module cache": None for a module makes every import of it fail.
    """
    names = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
