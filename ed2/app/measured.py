"""What runs measure on this computer, kept in the user's folder: GPU memory, for plans, and speed, for forecasts."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter

from ed2.app.preflight import ModelSizes
from ed2.app.user_files import UserFiles
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.events import Event, MetricsLogged, RunEnded
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.vram.card import Card
from ed2.vram.overhead import KEPT, Overhead, Reading, overhead_from
from ed2.vram.shapes import ModelShape, shape_of

logger = logging.getLogger(__name__)

CARDS_FILE = PROGRAM_DIR / "user" / "cards.json"
SPEEDS_FILE = PROGRAM_DIR / "user" / "speeds.json"
MAX_SPEEDS = 200
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
_READINGS: TypeAdapter[dict[str, list[Reading]]] = TypeAdapter(dict[str, list[Reading]])


@dataclass(frozen=True)
class Corrections:
    """Memory readings of each GPU, by its name and the version of PyTorch, so that the next plans learn from them."""

    file: Path

    def overhead(self, card: str) -> Overhead | None:
        """The overhead that the readings of a GPU give; None without any."""
        return overhead_from(self._readings().get(_card_key(card), []))

    def add(self, card: str, reading: Reading) -> None:
        """Keep a reading; log one that cannot be written."""
        readings, key = self._readings(), _card_key(card)
        readings[key] = [*readings.get(key, []), reading][-KEPT:]
        _write(self.file, {name: list(map(asdict, found)) for name, found in readings.items()}, "GPU memory")

    def _readings(self) -> dict[str, list[Reading]]:
        try:
            return _READINGS.validate_python(read_object(self.file))
        except (OSError, ValueError):
            return {}


def _card_key(card: str) -> str:
    return f"{card}, PyTorch {version('torch')}"


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
        _write(self.file, dict(list(speeds.items())[-MAX_SPEEDS:]), "speed")

    def _speeds(self) -> dict[str, object]:
        try:
            return dict(read_object(self.file))
        except (OSError, ValueError):
            return {}


def measured_speed(settings: Settings, sizes: ModelSizes, card: Card) -> float | None:
    """Images per second of the newest run of this kind on the same device; None if there was none."""
    return Speeds(SPEEDS_FILE).of(settings, shape_of(sizes.family, sizes.parameters), card.name)


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


def _write(file: Path, content: Mapping[str, object], what: str) -> None:
    try:
        UserFiles(file.parent).write(file.name, json.dumps(content, indent=1))
    except OSError as error:
        logger.warning("Could not save the measured %s: %s.", what, error)
