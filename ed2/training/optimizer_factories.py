"""The optimizers that can be chosen, each a function of parameters and options."""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ed2.errors import Problem, SettingsError
from ed2.training.rounding import is_dense

Parameters = Iterable[nn.Parameter]

BETAS = (0.9, 0.999)
LION_BETAS = (0.9, 0.99)
CHANNELS_LAST = (0, 2, 3, 1)
"""The dimensions of a convolution's weights in the order of their memory."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The settings of one network's optimizer; `betas` None leaves them to the optimizer."""

    lr: float
    betas: tuple[float, float] | None = None
    epsilon: float = 1e-8
    weight_decay: float = 0.01


def adamw(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW in one fused kernel for all parameters.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    # Fused: one pass over memory, where the loop over parameters would be bound by kernel launches.
    return torch.optim.AdamW(parameters, fused=True, **_adam_options(options))


def adamw8bit(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW with one byte per number of its state, quantised in blocks; tensors under 4096 numbers stay in fp32.

    Source: Dettmers et al. 2022, arXiv:2110.02861.
    """
    return _bitsandbytes("AdamW8bit")(parameters, **_adam_options(options))


def lion(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Lion: steps by the sign of an average. It needs 1/3 to 1/10 of AdamW's rate, and more weight decay to match.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    return _bitsandbytes("Lion")(parameters, **_lion_options(options))


def lion8bit(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Lion with one byte per number of its state; tensors under 4096 numbers stay in fp32."""
    return _bitsandbytes("Lion8bit")(parameters, **_lion_options(options))


def adafactor(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Adafactor at the given rate: keeps only row and column averages of a matrix's squared gradient.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4; without the relative step sizes of its section 8, so
    that a learning rate means what it means for AdamW.
    """
    from transformers.optimization import Adafactor

    # By default it computes its own rate, and takes neither a learning rate nor a schedule.
    own = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return Adafactor(list(parameters), lr=options.lr, weight_decay=options.weight_decay, **own)


def prodigy(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Prodigy: AdamW that finds its own rate; `lr` is a factor on it, best left at 1.

    Source: Mishchenko and Defazio 2023, arXiv:2306.06101.

    Raises:
        SettingsError: the optional part is not installed.
    """
    build = _optional("prodigyopt", "prodigy").Prodigy
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that its weight decay is decoupled
        return build(
            # As its authors advise for diffusion models: a warm-up would otherwise inflate its estimate of the rate.
            parameters,
            use_bias_correction=True,
            safeguard_warmup=True,
            **_adam_options(options),
        )


def schedulefree(parameters: Parameters, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Schedule-free AdamW: averages the weights instead of lowering the rate. It needs a constant, higher rate.

    Source: Defazio et al. 2024, arXiv:2405.15682.

    Raises:
        SettingsError: the optional part is not installed.
    """
    optimizer = _optional("schedulefree", "schedulefree").AdamWScheduleFree(parameters, **_adam_options(options))
    # It starts out in evaluation mode, in which a step raises an error.
    optimizer.train()
    return optimizer


def _adam_options(options: OptimizerOptions) -> dict[str, Any]:
    return {
        "lr": options.lr,
        "betas": options.betas or BETAS,
        "eps": options.epsilon,
        "weight_decay": options.weight_decay,
    }


def _lion_options(options: OptimizerOptions) -> dict[str, Any]:
    return {"lr": options.lr, "betas": options.betas or LION_BETAS, "weight_decay": options.weight_decay}


def _bitsandbytes(name: str) -> Any:
    """A class of its optimizers, for weights in any memory layout.

    Its kernels go through memory in order. So it makes weights contiguous first and leaves them so: `channels_last`
    would end with the first step, and the order of the state would not be the one that its strides say.
    """
    # At import it may warn about GPU libraries that it does not find; a CPU needs none.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind: Any = getattr(_optional("bitsandbytes", "").optim, name)

    def update_step(self: Any, group: dict[str, Any], parameter: Tensor, *place: int) -> None:
        with _in_order_of_memory(parameter, self.state[parameter]):
            kind.update_step(self, group, parameter, *place)

    return type(name, (kind,), {"update_step": update_step})


@contextlib.contextmanager
def _in_order_of_memory(parameter: Tensor, state: dict[str, Any]) -> Iterator[None]:
    """Let a parameter whose channels are last look contiguous, with its gradient and state, without moving a number."""
    own, gradient = parameter.data, parameter.grad
    if own.is_contiguous() or gradient is None or not is_dense(own):
        yield
        return
    named = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == own.shape}
    _replace(parameter, own.permute(CHANNELS_LAST), gradient.permute(CHANNELS_LAST))
    state.update({name: value.permute(CHANNELS_LAST) for name, value in named.items()})
    try:
        yield
    finally:
        _replace(parameter, own, gradient)
        state.update(named)


def _replace(parameter: Tensor, weights: Tensor, gradient: Tensor) -> None:
    parameter.grad = None  # one of another shape would be refused
    parameter.data = weights
    parameter.grad = gradient


def _optional(module: str, part: str) -> Any:
    """Import a module that may not be installed; `part` is what the launcher calls it."""
    try:
        return import_module(module)
    except ImportError as error:
        fix = f"Install it with ./launch.sh add {part} (launch.bat add {part})" if part else "Use a 32-bit optimizer"
        problem = Problem("optimizer", f"it needs {module}, which cannot be imported ({error}).", f"{fix}.")
        raise SettingsError("The optimizer is not installed:", [problem]) from None
