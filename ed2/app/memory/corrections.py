"""Memory readings of each GPU, kept in the user's folder, so that the next plans can learn from them."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from ed2.app.user_files import UserFiles
from ed2.settings.files import PROGRAM_DIR
from ed2.small_files import read_object
from ed2.vram.overhead import KEPT, Overhead, Reading, overhead_from

logger = logging.getLogger(__name__)

CARDS_FILE = PROGRAM_DIR / "user" / "cards.json"


@dataclass(frozen=True)
class Corrections:
    """The readings of each GPU, by its name and the version of PyTorch."""

    file: Path

    def overhead(self, card: str) -> Overhead | None:
        """The overhead that the readings of a GPU give; None without any."""
        return overhead_from(self._readings().get(_key(card), []))

    def add(self, card: str, reading: Reading) -> None:
        """Keep a reading; log one that cannot be written."""
        readings = self._readings()
        readings[_key(card)] = [*readings.get(_key(card), []), reading][-KEPT:]
        content = {name: list(map(asdict, found)) for name, found in readings.items()}
        try:
            UserFiles(self.file.parent).write(self.file.name, json.dumps(content, indent=1))
        except OSError as error:
            logger.warning("Could not save the measured GPU memory: %s.", error)

    def _readings(self) -> dict[str, list[Reading]]:
        try:
            values = read_object(self.file)
            return {str(name): list(map(_reading, found)) for name, found in values.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _reading(values: Mapping[str, object]) -> Reading:
    """A reading from the file. Raises TypeError if it is not one."""
    for name, value in values.items():
        is_unknown = name == "context_gb" and value is None
        if not isinstance(value, float | int) and not is_unknown:
            raise TypeError(f"{name} is not a number")
    return Reading(**values)  # type: ignore[arg-type]


def _key(card: str) -> str:
    return f"{card}, PyTorch {version('torch')}"
