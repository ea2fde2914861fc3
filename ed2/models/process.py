"""The forward diffusion process: how noise is added to latents, and what the network has to predict.

Source: Ho et al. 2020, arXiv:2006.11239, equation 4; v-prediction: Salimans and Ho 2022, arXiv:2202.00512, appendix D.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ed2.models.scheduler_config import BETAS, NO_SCHEDULE, scheduler_problem

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class DiffusionProcess:
    """A process of T timesteps, each with a share of the signal that is left.

    Attributes:
        alphas_cumprod: share of the signal's variance left, shape (T,), fp32, falling from nearly 1.
        prediction_type: what the network predicts, as diffusers call it.
        is_zero_snr: whether no signal is left at the last timestep (arXiv:2305.08891).
        config: of the diffusers scheduler that it was read from.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    is_zero_snr: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the process from a diffusers scheduler's configuration.

        Raises:
            ValueError: a prediction type that is neither epsilon nor v_prediction, or impossible betas.
        """
        if problem := scheduler_problem(config):
            raise ValueError(problem)
        prediction_type = config.get("prediction_type", "epsilon")
        betas = {name: config[name] for name in BETAS if config.get(name) is not None}
        alphas_cumprod = DDPMScheduler(**betas).alphas_cumprod
        if not bool(((alphas_cumprod >= 0) & (alphas_cumprod <= 1)).all()):
            raise ValueError(NO_SCHEDULE)
        return cls(alphas_cumprod, prediction_type, is_zero_snr=bool(alphas_cumprod[-1] == 0), config=config)

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> Self:
        """The same process with its table on `device`."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def draw_timesteps(self, generators: Sequence[np.random.Generator], start: int, end: int | None) -> Tensor:
        """A timestep from each generator, uniform from `start` up to but not including `end`: (B,), int64, on the CPU.

        Both ends are clamped to the process.
        """
        start, end = self._clamped(start, end)
        return torch.tensor([generator.integers(start, end) for generator in generators], dtype=torch.int64)

    def spread_timesteps(self, count: int, start: int, end: int | None) -> Tensor:
        """The middles of `count` equal parts of the timesteps from `start` to `end`, clamped: (count,), on the CPU."""
        start, end = self._clamped(start, end)
        return start + (2 * torch.arange(count) + 1) * (end - start) // (2 * count)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return sqrt(a) latents + sqrt(1 - a) noise, in fp32; latents (B,C,h,w), timesteps (B,)."""
        signal, spread = self._factors(timesteps)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the target of the prediction: the noise, or the velocity sqrt(a) noise - sqrt(1 - a) latents."""
        if self.prediction_type == "epsilon":
            return noise
        signal, spread = self._factors(timesteps)
        return signal * noise - spread * latents

    def position(self, timesteps: Tensor) -> Tensor:
        """Return 0 for the first timestep, 1 for the last, (B,)."""
        return timesteps / (self.num_timesteps - 1)

    def weight(self, timesteps: Tensor, min_snr_gamma: float) -> Tensor:
        """Return the min-SNR weight of each image's loss, (B,)."""
        return min_snr_weights(self.snr(timesteps), min_snr_gamma, self.prediction_type)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio a / (1 - a) of each timestep, shape (B,); 0 at zero terminal SNR."""
        alphas = self.alphas_cumprod[timesteps]
        return alphas / (1 - alphas)

    def _clamped(self, start: int, end: int | None) -> tuple[int, int]:
        end = min(self.num_timesteps, end or self.num_timesteps)
        return min(start, end - 1), end

    def _factors(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weight of each image's loss by its signal-to-noise ratio, both of shape (B,).

    min(SNR, gamma) / SNR where noise is predicted, 1 at an SNR of 0; min(SNR, gamma) / (SNR + 1) where v is, since the
    error of v is that of the image times SNR + 1.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4 and equation 16 of its appendix.
    """
    capped = snr.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    return torch.where(snr > 0, capped / snr.clamp_min(torch.finfo(snr.dtype).tiny), torch.ones_like(snr))
