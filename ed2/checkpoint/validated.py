"""The last validation of a run, for the manifests of its checkpoints."""

import math
from dataclasses import dataclass

from ed2.curve_names import LOSS_VAL
from ed2.events import Event, ValidationDone


@dataclass
class LatestValidation:
    """Listens to a run.

    Attributes:
        measured: step and loss of the last validation; None before the first.
    """

    measured: dict[str, float] | None = None

    def __call__(self, event: Event) -> None:
        """Remember the loss, if `event` brings one that is a number."""
        if isinstance(event, ValidationDone) and math.isfinite(loss := event.values.get(LOSS_VAL, math.nan)):
            self.measured = {"step": event.step, "loss": loss}
