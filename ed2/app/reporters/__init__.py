"""Observers of a run: the terminal, TensorBoard, `events.jsonl` and `run.log`.

Each is called with every event and closed once at the end. `replay` is the way back, from `events.jsonl` to events.
"""

from ed2.app.reporters.console import ConsoleReporter
from ed2.app.reporters.curves import TensorBoardReporter
from ed2.app.reporters.jsonl import JsonlReporter, cut_back
from ed2.app.reporters.log import LogReporter

__all__ = ["ConsoleReporter", "JsonlReporter", "LogReporter", "TensorBoardReporter", "cut_back"]
