"""How fast runs were on this computer, kept in the user's folder, so that the time of a run like them can be told."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ed2.app.user_files import UserFiles
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.events import Event, MetricsLogged, RunEnded
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.vram.shapes import ModelShape

logger = logging.getLogger(__name__)

SPEEDS_FILE = PROGRAM_DIR / "user" / "speeds.json"
KEPT = 200
"""Kinds of run whose speed is kept, the newest ones."""
ENOUGH = 3
"""Measurements after which a speed is kept, in case the run does not reach its end."""
SAME_SPEED = (
    "method",
    "resolution",
    "batch_size",
    "grad_accum",
    "num_processes",
    "gradient_checkpointing",
    "amp",
    "weights_dtype",
    "fused_backward",
    "disable_unet_training",
    "disable_textenc_training",
    "disable_textenc_2_training",
    "optimizer",
    "useadam8bit",
    "cache_latents",
)
"""Settings that must be equal for the speed of an earlier run to be comparable."""


@dataclass(frozen=True)
class Speeds:
    """Images per second by kind of run."""

    file: Path

    def of(self, settings: Settings, shape: ModelShape, device: str) -> float | None:
        """The speed of the newest run of this kind, in images per second; None if there was none.

        Args:
            settings: of the run.
            shape: of its model.
            device: name of the GPU, or of the CPU.
        """
        speed = self._speeds().get(_key(settings, shape, device))
        return float(speed) if isinstance(speed, int | float) and 0 < speed < float("inf") else None

    def add(self, settings: Settings, shape: ModelShape, device: str, images_per_second: float) -> None:
        """Keep a speed; log one that cannot be written."""
        speeds, key = self._speeds(), _key(settings, shape, device)
        speeds.pop(key, None)
        speeds[key] = float(f"{images_per_second:.4g}")
        content = dict(list(speeds.items())[-KEPT:])
        try:
            UserFiles(self.file.parent).write(self.file.name, json.dumps(content, indent=1))
        except OSError as error:
            logger.warning("Could not save the measured speed: %s.", error)

    def _speeds(self) -> dict[str, object]:
        try:
            return dict(read_object(self.file))
        except (OSError, ValueError):
            return {}


@dataclass
class SpeedWatch:
    """Keeps the median of the speeds that a run logs: after the first ones, and at its end."""

    settings: Settings
    shape: ModelShape
    device: str
    _logged: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Take note of a speed, and keep what was measured when the event is the right moment."""
        if isinstance(event, MetricsLogged) and event.values.get(IMAGES_PER_SECOND, 0) > 0:
            self._logged.append(event.values[IMAGES_PER_SECOND])
            if len(self._logged) == ENOUGH:
                self._keep()
        elif isinstance(event, RunEnded) and self._logged:
            self._keep()

    def _keep(self) -> None:
        Speeds(SPEEDS_FILE).add(self.settings, self.shape, self.device, median(self._logged))


def _key(settings: Settings, shape: ModelShape, device: str) -> str:
    """A kind of run: device, family, size of the denoiser, and settings."""
    values = settings.flat()
    return json.dumps([device, shape.family, shape.numbers("unet"), *(values[name] for name in SAME_SPEED)])
