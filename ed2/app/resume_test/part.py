"""A part of the resume test, as a program of its own that can be killed: `python -m ed2.app.resume_test.part FILE`.

The file holds settings and how far to go. Progress is printed to standard output, one JSON object a line.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.libraries import read_libraries
from ed2.app.signals import exit_with_parent
from ed2.errors import Ed2Error, StopRequested
from ed2.events import Event, PhaseChanged, RunStarted, SavingChanged, StepDone, Warned
from ed2.training.controls import Controls


@dataclass(frozen=True)
class ResumeTestPart:
    """How far a part of the test goes.

    Attributes:
        values: flat settings.
        until: the step after which it stops and saves.
        save_at: the step after which it saves, and then waits after the next one to be killed; None for neither.
    """

    values: dict[str, object]
    until: int
    save_at: int | None = None


@dataclass
class PartObserver:
    """Stops, saves and pauses as a `ResumeTestPart` says, and prints each step."""

    part: ResumeTestPart
    controls: Controls

    def __call__(self, event: Event) -> None:
        """Handle an event, in the trainer's thread."""
        if line := _line_of(event):
            print_line(**line)
        if isinstance(event, StepDone):
            self._control(event)

    def _control(self, event: StepDone) -> None:
        if event.step == self.part.until:
            self.controls.stop()
        elif event.step == self.part.save_at:
            self.controls.ask("save")
        elif self.part.save_at and event.step > self.part.save_at:
            self.controls.pause()


def _line_of(event: Event) -> dict[str, object]:
    """What the resume test needs to know of an event."""
    match event:
        case RunStarted():
            return {"began": event.step, "run_dir": str(event.run_dir), "total": event.total_steps}
        case PhaseChanged(phase="preparing"):
            return {"preparing": event.detail}
        case Warned():
            return {"warning": event.text}
        case SavingChanged(is_saving=False):
            return {"saved": event.step}
        case StepDone():
            return {"step": event.step}
    return {}


def print_line(**what: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


def main(argv: list[str]) -> int:
    """Run a part; 0 if it reached its end."""
    exit_with_parent()  # first, since loading libraries takes seconds
    part = ResumeTestPart(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    read_libraries()
    from ed2.app.run import run_training
    from ed2.events import EventBus

    controls = Controls()
    bus: Any = EventBus([PartObserver(part, controls)])
    try:
        ended = run_training(part.values, None, bus=bus, controls=controls)
    except Ed2Error as error:
        print_line(failed=str(error), code=error.exit_code)
        return 1
    except StopRequested:
        return 1
    if ended.phase == "failed":
        print_line(failed=ended.reason, code=1)
    return int(ended.phase == "failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
