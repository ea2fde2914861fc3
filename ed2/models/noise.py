"""The forward process of diffusion: how noise is added to latents, and what the network has to predict.

Source: Ho et al. 2020, arXiv:2006.11239, equation 4; v-prediction: Salimans and Ho 2022, arXiv:2202.00512, appendix D.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ed2.errors import shown

PredictionType = Literal["epsilon", "v_prediction"]
MAX_TIMESTEPS = 100_000
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal is left at each timestep.

    Attributes:
        alphas_cumprod: share of the signal's variance left, shape (T,), fp32, falling from nearly 1.
        prediction_type: what the network predicts.
        is_zero_snr: whether nothing of the signal is left at the last timestep (arXiv:2305.08891).
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    is_zero_snr: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the schedule from a diffusers scheduler's configuration.

        Raises:
            ValueError: a prediction type that is neither epsilon nor v_prediction, or no schedule of noise.
        """
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type is {prediction_type}; only epsilon and v_prediction can be trained")
        names = (
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "rescale_betas_zero_snr",
        )
        betas = {name: config[name] for name in names if config.get(name) is not None}
        steps = betas.get("num_train_timesteps", 1000)
        if not isinstance(steps, int) or not 2 <= steps <= MAX_TIMESTEPS:
            raise ValueError(f"num_train_timesteps is {shown(steps)}; from 2 to {MAX_TIMESTEPS:,} can be trained")
        alphas_cumprod = DDPMScheduler(**betas).alphas_cumprod
        if len(alphas_cumprod) != steps or not bool(((alphas_cumprod >= 0) & (alphas_cumprod <= 1)).all()):
            raise ValueError("its betas give no schedule of noise")
        return cls(alphas_cumprod, prediction_type, is_zero_snr=bool(alphas_cumprod[-1] == 0))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> Self:
        """The same schedule with its table on `device`."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return sqrt(a) latents + sqrt(1 - a) noise, in fp32; latents (B,C,h,w), timesteps (B,)."""
        signal, spread = self._weights(timesteps)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network is to predict: the noise, or the velocity sqrt(a) noise - sqrt(1 - a) latents."""
        if self.prediction_type == "epsilon":
            return noise
        signal, spread = self._weights(timesteps)
        return signal * noise - spread * latents

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio a / (1 - a) of each timestep, shape (B,); 0 at the end of a schedule of zero SNR."""
        alphas = self.alphas_cumprod[timesteps]
        return alphas / (1 - alphas)

    def _weights(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()
