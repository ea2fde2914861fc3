"""The same bytes from the same run on a card, at some cost in speed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""What cuBLAS needs for repeatable sums. It is read once, when a program first uses a card."""


@contextmanager
def exactly(device: torch.device, *, is_wanted: bool) -> Iterator[None]:
    """Compute so that a repetition gives the same bytes, while it lasts; a CPU does so anyway.

    Operations that have no such form are computed as they are, and PyTorch warns of each by name.
    Source: PyTorch, notes on randomness.
    """
    os.environ.setdefault(*WORKSPACE)  # also where it is not wanted: the next run of this program may
    if not is_wanted or device.type != "cuda":
        yield
        return
    cudnn, attention = torch.backends.cudnn, torch.backends.cuda
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        attention.mem_efficient_sdp_enabled(),
        attention.cudnn_sdp_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    attention.enable_mem_efficient_sdp(False)  # adds up its gradients in any order; flash has a mode that does not
    attention.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        is_on, is_mild, cudnn.deterministic, cudnn.benchmark, memory_efficient, by_cudnn = before
        torch.use_deterministic_algorithms(is_on, warn_only=is_mild)
        attention.enable_mem_efficient_sdp(memory_efficient)
        attention.enable_cudnn_sdp(by_cudnn)
