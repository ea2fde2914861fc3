"""How the networks compute: kind of attention, layout in memory, compilation. What cannot be had is said."""

import warnings

import torch

from ed2.models.base import DiffusionModel


def choose_attention(model: DiffusionModel, kind: str, device: torch.device) -> str:
    """Set the kind of attention: sdp, slice or xformers.

    Returns:
        What to tell the user, empty where there is nothing to tell.
    """
    if kind == "slice":
        model.denoiser.set_attention_slice("auto")
    if kind == "xformers":
        if problem := xformers_problem(device):
            return f"xformers cannot be used ({problem}): PyTorch's own attention is used instead."
        # diffusers 0.42: set_attention_backend("xformers") does nothing to a UNet and does not say so; this one raises.
        for part in model.parts.values():
            if hasattr(part.module, "enable_xformers_memory_efficient_attention"):  # not the text encoders
                part.module.enable_xformers_memory_efficient_attention()
    return ""


def xformers_problem(device: torch.device) -> str:
    """Why xformers does not work here, empty if it does: one tiny attention is computed there and back."""
    if device.type != "cuda":
        return "it needs a card"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # built for another PyTorch, it warns and fails at the call
            from xformers.ops import memory_efficient_attention

        query = torch.ones(1, 16, 2, 40, device=device, dtype=torch.float16, requires_grad=True)
        memory_efficient_attention(query, query, query).sum().backward()
    except Exception as error:  # whatever a library of another build may raise
        return _first_line(error)
    return ""


def compile_denoiser(model: DiffusionModel, device: torch.device) -> str:
    """Compile the transformer blocks of the UNet, for images of any size; their names and weights stay.

    Returns:
        What to tell the user: why nothing is compiled here; empty if all is well.
    """
    try:
        probe = torch.compile(lambda numbers: numbers * 2 + 1)
        probe(torch.ones(8, device=device))
    except Exception as error:  # no compiler on this machine, or one that fails in its own way
        return f"torch_compile cannot be used here ({_first_line(error)}): the UNet runs as it is."
    model.denoiser.compile_repeated_blocks(dynamic=True)
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
