"""Running sums of losses, kept on the device until they are logged."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Mean:
    """A running mean whose sum stays on the device of its values."""

    total: Tensor | float | None = None
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Add every number of `values`, in fp64, so that the log interval does not change the mean of an epoch."""
        # No .item(): reading it would make the CPU wait for the GPU at every step.
        total = values.double().sum()
        self.total = total if self.total is None else self.total + total
        self.count += values.numel()

    def take(self) -> float:
        """Read the mean from the device and reset it. NaN if nothing was added."""
        mean = float(self.total) / self.count if self.total is not None and self.count else float("nan")
        self.total, self.count = None, 0
        return mean

    def sum(self) -> tuple[float, int]:
        """Read the sum from the device, and how many numbers it has."""
        return (float(self.total) if self.total is not None else 0.0), self.count

    def state(self) -> dict[str, float]:
        """For JSON."""
        total, count = self.sum()
        return {"total": total, "count": count}

    def restore(self, values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.count = int(values["count"])
        self.total = torch.tensor(values["total"], dtype=torch.float64) if self.count else None


@dataclass
class Metrics:
    """What is measured since the last log line and over an epoch.

    Attributes:
        grad_norm: norm of the gradient of the last step before clipping, on the device.
        skipped_steps: steps skipped because of a loss or gradient that was not finite.
    """

    window: Mean = field(default_factory=Mean)
    epoch: Mean = field(default_factory=Mean)
    grad_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    skipped_steps: int = 0
    images: int = 0
    _since: float = field(default_factory=time.monotonic)
    _epoch_since: float = field(default_factory=time.monotonic)

    def add(self, losses: Tensor) -> None:
        """Add the loss of each image of a step, (N,)."""
        self.window.add(losses)
        self.epoch.add(losses)
        self.images += losses.numel()

    def images_per_second(self) -> float:
        """Speed since the last call, including the time spent waiting for images."""
        now = time.monotonic()
        speed = self.images / max(now - self._since, 1e-9)
        # Loader waits are included on purpose: a slow disk should be seen on the curve.
        self.images, self._since = 0, now
        return speed

    def epoch_minutes(self) -> float:
        """Minutes since the last call."""
        now = time.monotonic()
        minutes = (now - self._epoch_since) / 60
        self._epoch_since = now
        return minutes

    def restart_clocks(self) -> None:
        """Start measuring time here, after preparing or a pause."""
        self._since = self._epoch_since = time.monotonic()
        self.images = 0

    def state(self) -> dict[str, Any]:
        """For JSON: what a resumed run needs to log the same numbers as one that was not interrupted."""
        return {"window": self.window.state(), "epoch": self.epoch.state(), "skipped_steps": self.skipped_steps}

    def restore(self, values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.window.restore(values["window"])
        self.epoch.restore(values["epoch"])
        self.skipped_steps = int(values["skipped_steps"])
