"""What was measured on each card, kept in the user's folder, and what it teaches about the next plan."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from ed2.app.user_files import UserFiles
from ed2.settings.files import PROGRAM_DIR
from ed2.small_files import read_object
from ed2.vram.learning import KEPT, Reading, learnt
from ed2.vram.plan import Overhead

logger = logging.getLogger(__name__)

CARDS_FILE = PROGRAM_DIR / "user" / "cards.json"


@dataclass(frozen=True)
class Corrections:
    """What was measured on each card, by its name and the version of PyTorch."""

    file: Path

    def overhead(self, card: str) -> Overhead | None:
        """What the readings of a card teach."""
        return learnt(self._readings().get(_key(card), []))

    def add(self, card: str, reading: Reading) -> None:
        """Keep a reading. One that cannot be written is reported and lost."""
        readings = self._readings()
        readings[_key(card)] = [*readings.get(_key(card), []), reading][-KEPT:]
        text = json.dumps({name: [asdict(r) for r in found] for name, found in readings.items()}, indent=1)
        try:
            UserFiles(self.file.parent).write(self.file.name, text)
        except OSError as error:
            logger.warning("What was measured on the card could not be kept: %s.", error)

    def _readings(self) -> dict[str, list[Reading]]:
        try:
            values = read_object(self.file)
            return {str(name): [_reading(reading) for reading in found] for name, found in values.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _reading(values: Mapping[str, object]) -> Reading:
    """A reading out of the file. Raises TypeError where it holds none."""
    if not all(isinstance(value, float | int) or (name, value) == ("context_gb", None)
               for name, value in values.items()):  # fmt: skip
        raise TypeError("it holds no numbers")
    return Reading(**values)  # type: ignore[arg-type]


def _key(card: str) -> str:
    return f"{card}, PyTorch {version('torch')}"
