"""A moving average of the weights (EMA), which changes less from step to step than the weights themselves.

Source: Polyak and Juditsky 1992; for diffusion models Ho et al. 2020, arXiv:2006.11239, appendix B.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.models.base import Part
from ed2.training.optimizers import overwrite

NetworkTensors = dict[str, dict[str, Tensor]]


def decay_for_strength(target: float, *, total_steps: int, interval: int) -> float:
    """The decay by which the weights at the start keep a share of `target` in the average at the end of the run."""
    return float(target ** (1 / max(1, total_steps // interval)))


class NoEma:
    """Stands where a run keeps no average."""

    def update(self, step: int) -> None:
        """Do nothing."""

    def state(self) -> NetworkTensors:
        """Nothing to save."""
        return {}

    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Nothing to put back."""


@dataclass
class Ema:
    """The average of what is trained of each network.

    Attributes:
        parts: the trained parts by name.
        decay: share of the average that stays at an update.
        interval: optimizer steps between two updates.
        device: where the average lies.
    """

    parts: Mapping[str, Part]
    decay: float
    interval: int
    device: torch.device

    def __post_init__(self) -> None:
        self._averages: NetworkTensors = {
            name: {key: p.detach().to(self.device, torch.float32, copy=True) for key, p in part.parameters().items()}
            for name, part in self.parts.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average by 1 - decay of the way to the weights, if optimizer step number `step` is due."""
        if step % self.interval:
            return
        for name, part in self.parts.items():
            for key, parameter in part.parameters().items():
                self._averages[name][key].lerp_(parameter.to(self.device, torch.float32), 1 - self.decay)

    def state(self) -> NetworkTensors:
        """The averages themselves by network and name of the parameter, where they lie; an update changes them."""
        return self._averages

    @torch.no_grad()
    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over averages; what `state` does not hold stays.

        Raises:
            RuntimeError: they belong to another model.
        """
        for name, tensors in self._averages.items():
            for key, tensor in tensors.items():
                if key in state.get(name, {}):
                    tensor.copy_(state[name][key])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the networks the averages, and back their own weights, exactly; those wait on the CPU.

        On a card they would take more than the gradients of a step do, and samples would be the peak of the run.
        """
        parameters = [p for part in self.parts.values() for p in part.parameters().values()]
        averages = [tensor for tensors in self._averages.values() for tensor in tensors.values()]
        kept = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
        try:
            overwrite(parameters, averages)
            yield
        finally:
            overwrite(parameters, kept)
