"""A part of the resume test, as a program of its own that can be killed: `python -m ed2.app.resume_test.part FILE`.

The file holds settings and how far to go. What happens is sent through standard output, as a run sends it to the page.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ed2.app.libraries import read_libraries
from ed2.app.ranks.messages import PipeMessage, encoded, error_message, event_message
from ed2.app.signals import exit_with_parent
from ed2.errors import Ed2Error, StopRequested
from ed2.events import Event, EventBus, PhaseChanged, RunStarted, SavingChanged, StepDone, Warned
from ed2.training.controls import Controls

SENT = (RunStarted, PhaseChanged, Warned, SavingChanged, StepDone)


@dataclass
class PartObserver:
    """Stops, saves and pauses where this part of the test does, and sends each step.

    Attributes:
        until: the step after which it stops and saves.
        save_at: the step after which it saves, and then waits after the next one to be killed; None for neither.
    """

    controls: Controls
    until: int
    save_at: int | None = None

    def __call__(self, event: Event) -> None:
        """Handle an event, in the trainer's thread."""
        if isinstance(event, SENT):
            send(event_message(event))
        if not isinstance(event, StepDone):
            return
        if event.step == self.until:
            self.controls.stop()
        elif event.step == self.save_at:
            self.controls.ask("save")
        elif self.save_at and event.step > self.save_at:
            self.controls.pause()


def send(message: PipeMessage) -> None:
    """Send a line."""
    sys.stdout.buffer.write(encoded(message))
    sys.stdout.buffer.flush()


def main(argv: list[str]) -> int:
    """Run a part; 0 if it reached its end."""
    exit_with_parent()  # first, since loading libraries takes seconds
    part = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    values = part.pop("values")
    controls = Controls()
    try:
        read_libraries()
        from ed2.app.run import run_training

        ended = run_training(values, None, bus=EventBus([PartObserver(controls, **part)]), controls=controls)
    except (Ed2Error, StopRequested) as error:
        send(error_message(error))
        return 1
    if ended.phase == "failed":
        send(error_message(Ed2Error(ended.reason)))
    return int(ended.phase == "failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
