"""Behaving like a card on tensors without content: mixed precision and fused attention.

PyTorch without CUDA has no autocast for them, that of the CPU follows other rules, and its attention would be the plain
one, whose memory grows with the square of the image's area.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from scripts.memory_trace.live import LiveBytes

# The lists of aten/src/ATen/autocast_mode.h, as far as Stable Diffusion uses them.
LOWERED = set(
    "conv1d conv2d conv3d conv_transpose2d linear matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm addbmm einsum "
    "scaled_dot_product_attention".split()
)
RAISED = set(
    "layer_norm group_norm softmax log_softmax mse_loss smooth_l1_loss huber_loss l1_loss exp pow __pow__ norm cumsum "
    "prod sum interpolate upsample_nearest2d rsqrt reciprocal log".split()
)
WIDENED = {"cat", "stack", "addcmul", "addcdiv"}
HALVES = (torch.float16, torch.bfloat16)


class FusedAttention(torch.autograd.Function):
    """Takes the memory of flash attention: keeps q, k, v, the result, and one fp32 number a row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Allocate what the kernel would."""
        batch, heads, length, _ = q.shape
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, q.new_empty(batch, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Allocate what the kernel would: under half precision dq is summed in fp32."""
        q, k, v, _, rows = ctx.saved_tensors
        held = [torch.empty_like(rows)]
        if q.dtype in HALVES:
            held.append(torch.empty_like(q, dtype=torch.float32))
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class SlicedAttention(torch.autograd.Function):
    """Takes the memory of attention in slices: all their probabilities stay until the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Allocate scores' softmax in fp32, and its copy in half precision."""
        shape = (*q.shape[:3], k.shape[2])
        kept = [q.new_empty(shape, dtype=torch.float32)]
        if q.dtype in HALVES:
            kept.append(q.new_empty(shape))
        ctx.save_for_backward(q, k, v, *kept)
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Allocate the gradients; those of a slice's scores are small beside them."""
        q, k, v = ctx.saved_tensors[:3]
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class LikeACard(TorchFunctionMode):
    """Autocast to `half` (None is off), with the weights cast once while it lasts, and fused or sliced attention."""

    def __init__(self, live: LiveBytes, half: torch.dtype | None, *, sliced: bool = False) -> None:
        super().__init__()
        self._live, self._half = live, half
        self._attention = SlicedAttention if sliced else FusedAttention
        self._cast: dict[int, Tensor] = {}

    def __exit__(self, *details: Any) -> None:
        """Forget the cast weights, as autocast does."""
        self._cast.clear()
        super().__exit__(*details)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._half:
            args, kwargs = tree_map(self._change(name, args), (args, kwargs))
        if name == "scaled_dot_product_attention":
            named = [kwargs[key] for key in ("query", "key", "value") if key in kwargs]
            return self._attention.apply(*[*args, *named][:3])
        return func(*args, **kwargs)

    def _change(self, name: str, args: Any) -> Callable[[Any], Any]:
        """What autocast does to each argument of a function."""
        if name in LOWERED:
            return self._lowered
        if name in RAISED:
            return _raised
        if name in WIDENED and len({t.dtype for t in tree_leaves(args) if _is_real(t)}) > 1:
            return lambda value: value.float() if _is_real(value) else value
        return lambda value: value

    def _lowered(self, value: Any) -> Any:
        if not _is_real(value) or value.dtype in (self._half, torch.float64):
            return value
        if not (value.requires_grad and value.is_leaf and not value._is_view()):
            return value.to(self._half)
        if id(value) not in self._cast:
            self._cast[id(value)] = value.to(self._half)
            self._live.call(self._cast[id(value)], "casts")
        return self._cast[id(value)]


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _raised(value: Any) -> Any:
    return value.float() if _is_real(value) and value.dtype in HALVES else value


def checkpointing(make_card: Callable[[], LikeACard]) -> Callable[..., Any]:
    """The function by which diffusers and transformers compute a block a second time: under autocast, as the first."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), make_card()

    def run(module: Any, *args: Any, **kwargs: Any) -> Any:
        function = module.__call__ if isinstance(module, nn.Module) else module
        kwargs.pop("use_reentrant", None)
        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts, preserve_rng_state=False, **kwargs)

    return run
