"""The NVIDIA cards of this computer, by what nvidia-smi prints. Standard library only."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple


class Card(NamedTuple):
    """An NVIDIA card, as nvidia-smi tells it. `capability` is None where the driver is too old to say."""

    name: str
    driver: str
    memory_gb: float | None
    capability: float | None


def leading_number(text: str) -> float | None:
    """The number at the start of `text`, if any."""
    found = re.match(r"\d+(\.\d+)?", text)
    return float(found.group()) if found else None


def nvidia_cards() -> list[Card]:
    """The NVIDIA cards that work with their driver."""
    program = shutil.which("nvidia-smi")
    for extra in (",compute_cap", "") if program else ():  # old drivers refuse the whole question for compute_cap
        query = [str(program), f"--query-gpu=name,driver_version,memory.total{extra}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
        rows = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines()]
        if answer.returncode == 0 and rows and all(len(row) in (3, 4) for row in rows):
            return [card_of(*row) for row in rows]
    return []


def card_of(name: str, driver: str, memory_mb: str, capability: str = "") -> Card:
    """A row of nvidia-smi; what it does not know is "[N/A]" there and None here."""
    megabytes = leading_number(memory_mb)
    return Card(name, driver, megabytes / 1024 if megabytes else None, leading_number(capability))
