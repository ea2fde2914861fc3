"""A moving average of the weights (EMA), which changes less from step to step than the weights themselves.

Source: Polyak and Juditsky 1992; for diffusion models Ho et al. 2020, arXiv:2006.11239, appendix B.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.models.parts import Part
from ed2.training.optimizers import overwrite

NetworkTensors = dict[str, dict[str, Tensor]]


def decay_for_strength(target: float, *, total_steps: int, interval: int) -> float:
    """The decay at which the initial weights have a share of `target` in the average at the end of the run."""
    return float(target ** (1 / max(1, total_steps // interval)))


class NoEma:
    """The null object for a run without an EMA."""

    def update(self, step: int) -> None:
        """Do nothing."""

    def state(self) -> NetworkTensors:
        """Nothing to save."""
        return {}

    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Nothing to restore."""


@dataclass
class Ema:
    """The average of the trained weights of each network.

    Attributes:
        parts: the trained parts by name.
        decay: share of the average that stays at an update.
        interval: optimizer steps between updates.
        device: where the average is kept.
    """

    parts: Mapping[str, Part]
    decay: float
    interval: int
    device: torch.device

    def __post_init__(self) -> None:
        self._averages: NetworkTensors = {
            # In fp32, whatever the weights are in: a share of 1 - decay of a small change is lost in half precision.
            name: {key: p.detach().to(self.device, torch.float32, copy=True) for key, p in part.parameters().items()}
            for name, part in self.parts.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights by 1 - decay, if a step of this number is due."""
        # By the step's number, so that a resumed run updates at the same steps.
        if step % self.interval:
            return
        for name, part in self.parts.items():
            for key, parameter in part.parameters().items():
                self._averages[name][key].lerp_(parameter.to(self.device, torch.float32), 1 - self.decay)

    def state(self) -> NetworkTensors:
        """The averages by network and parameter name: the tensors themselves, which the next update changes."""
        return self._averages

    @torch.no_grad()
    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load averages; what `state` does not hold keeps its value.

        Raises:
            RuntimeError: they belong to another model.
        """
        for name, tensors in self._averages.items():
            for key, tensor in tensors.items():
                if key in state.get(name, {}):
                    tensor.copy_(state[name][key])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averages into the networks, and swap the trained weights back afterwards, bit for bit.

        Meanwhile the trained weights are kept on the CPU. On a GPU they would take more memory than the gradients of a
        step, and sampling would be the peak of the run.
        """
        parameters, averages = list[Tensor](), list[Tensor]()
        for name, part in self.parts.items():
            parameters += part.parameters().values()
            averages += self._averages[name].values()
        kept = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
        try:
            overwrite(parameters, averages)
            yield
        finally:
            overwrite(parameters, kept)


Average = NoEma | Ema
