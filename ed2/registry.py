"""Tables of the names that a setting accepts, each with the location of its code, imported only when used.

The schema, the flags and the form know the names without importing torch. To add one, add a line here; nothing is
inherited from.
"""

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any


class Registry(Mapping[str, str]):
    """A table of name -> "module:attribute"."""

    def __init__(self, kind: str, places: Mapping[str, str]) -> None:
        self.kind = kind
        self._places = dict(places)

    def __getitem__(self, name: str) -> str:
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def add(self, name: str, place: str) -> None:
        """Register `name` for "module:attribute".

        Raises:
            ValueError: the name is taken.
        """
        if name in self._places:
            raise ValueError(f"there is a {self.kind} named {name} already")
        self._places[name] = place

    def load(self, name: str) -> Any:
        """Import and return the object registered as `name`.

        Raises:
            KeyError: no such name.
        """
        return resolve_name(self._places[name])


FAMILIES = Registry(
    "model family",
    {
        "sd1": "ed2.models.families.sd:load",
        "sd2": "ed2.models.families.sd:load",
        "sdxl": "ed2.models.families.sdxl:load",
    },
)
"""load(source, *, trained, device, frozen_dtype, trained_dtype, adapt) -> ed2.models.base.DiffusionModel"""

OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": "ed2.training.optimizer_factories:adamw",
        "adamw8bit": "ed2.training.optimizer_factories:adamw8bit",
        "lion": "ed2.training.optimizer_factories:lion",
        "lion8bit": "ed2.training.optimizer_factories:lion8bit",
        "adafactor": "ed2.training.optimizer_factories:adafactor",
        "prodigy": "ed2.training.optimizer_factories:prodigy",
        "schedulefree": "ed2.training.optimizer_factories:schedulefree",
    },
)
"""build(parameters, options: ed2.training.optimizer_factories.OptimizerOptions) -> torch.optim.Optimizer"""

SCHEDULES = Registry(
    "schedule",
    {
        "constant": "ed2.training.schedules:constant",
        "linear": "ed2.training.schedules:linear",
        "cosine": "ed2.training.schedules:cosine",
        "polynomial": "ed2.training.schedules:polynomial",
    },
)
"""f(progress) -> factor on the learning rate, progress running from 0 to 1 over the run"""

LOSSES = Registry(
    "loss",
    {
        "mse": "ed2.training.objective:mse",
        "huber": "ed2.training.objective:huber",
        "mse_huber": "ed2.training.objective:mse_huber",
        "huber_mse": "ed2.training.objective:huber_mse",
    },
)
"""f(prediction, target, position) -> loss per image (B,); position (B,) is 0 at timestep 0 and 1 at the last"""

JOBS = Registry("job", {})
"""build(run: ed2.training.state.Run) -> ed2.training.state.Job; every one in the table works in every run"""

SAMPLERS = Registry(
    "sampler",
    {
        "ddim": "ed2.sampling.schedulers:ddim",
        "ddpm": "ed2.sampling.schedulers:ddpm",
        "pndm": "ed2.sampling.schedulers:pndm",
        "lms": "ed2.sampling.schedulers:lms",
        "euler": "ed2.sampling.schedulers:euler",
        "euler_a": "ed2.sampling.schedulers:euler_a",
        "kdpm2": "ed2.sampling.schedulers:kdpm2",
        "dpm++": "ed2.sampling.schedulers:dpm_2m",
        "dpm++_2s": "ed2.sampling.schedulers:dpm_2s",
        "dpm++_2s_k": "ed2.sampling.schedulers:dpm_2s_k",
        "dpm++_2m": "ed2.sampling.schedulers:dpm_2m",
        "dpm++_2m_k": "ed2.sampling.schedulers:dpm_2m_k",
        "dpm++_sde": "ed2.sampling.schedulers:dpm_sde",
        "dpm++_sde_k": "ed2.sampling.schedulers:dpm_sde_k",
        "dpm++_2m_sde": "ed2.sampling.schedulers:dpm_2m_sde",
        "dpm++_2m_sde_k": "ed2.sampling.schedulers:dpm_2m_sde_k",
    },
)
"""build(scheduler_config) -> a diffusers scheduler"""
