"""Runs `train.py` as told, and prints which module of ed2 called a function of which other one until the first step.

    python -m tests.recorded_calls OPTIONS OF train.py

One line per pair: "caller.function callee.function", in the order of the first call. What a function that was handed
down as an argument answers (a lambda or an inner function) is not counted as a call of what it was handed to.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import FrameType

LAST = ("ed2.training.loop", "optimizer_step")
Place = tuple[str, str]


class Recorder:
    """Notes calls between modules of ed2 in this thread, until the first step begins."""

    def __init__(self) -> None:
        self.calls: dict[tuple[Place, Place], None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        callee = _place(frame)
        if callee is None or "<" in callee[1]:
            return
        caller = _caller(frame)
        if caller and caller[0] != callee[0]:
            self.calls[caller, callee] = None
        if callee == LAST:
            sys.setprofile(None)


def _place(frame: FrameType) -> Place | None:
    """Module and function of a frame; None outside ed2, at import, and in code that dataclasses write."""
    module, code = str(frame.f_globals.get("__name__")), frame.f_code
    if not module.startswith("ed2.") or code.co_name == "<module>" or code.co_filename == "<string>":
        return None
    return module, code.co_qualname


def _caller(frame: FrameType) -> Place | None:
    """The function of ed2 that a call came from, through whatever library."""
    above = frame.f_back
    while above is not None:
        if above.f_code.co_name == "<module>" and str(above.f_globals.get("__name__")).startswith("ed2."):
            return None  # an import
        if place := _place(above):
            return place
        above = above.f_back
    return None


def main(argv: list[str]) -> int:
    """Train, and print the calls."""
    import ed2.app.run  # noqa: F401  # imports do not count, and take three times as long while each call is looked at
    from ed2.app.command import main as train
    from ed2.app.images import scanning

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        scanning.INDEX_FILE = Path(folder) / "index.json"  # a folder that is remembered is not walked through
        sys.setprofile(recorder)
        try:
            code = train(argv)
        finally:
            sys.setprofile(None)
    for caller, callee in recorder.calls:
        print("CALL", json.dumps([*caller, *callee]))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
