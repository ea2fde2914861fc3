"""TensorBoard: curves, sample pictures and the settings of a run."""

import json
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ed2.events import EpochEnded, Event, MetricsLogged, RunStarted, SamplesMade, SavingChanged, ValidationDone

FLUSH_SECONDS = 20


@dataclass
class TensorBoardReporter:
    """Writes a TensorBoard file into the run's folder, made at the first event.

    Attributes:
        purge_step: where a run is continued, the first step that will be written anew: TensorBoard hides what an
            earlier part of the run wrote from there on.
    """

    run_dir: Path
    purge_step: int | None = None
    _writer: Any = field(default=None, repr=False)

    def __call__(self, event: Event) -> None:
        """Write what an event holds for TensorBoard."""
        self._add(event)

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def writer(self) -> Any:
        """The `SummaryWriter`."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._writer = SummaryWriter(str(self.run_dir), purge_step=self.purge_step, flush_secs=FLUSH_SECONDS)
        return self._writer

    @singledispatchmethod
    def _add(self, event: Event) -> None:
        """What is not named below has no place in TensorBoard."""

    @_add.register
    def _(self, event: RunStarted) -> None:
        text = json.dumps(dict(event.config), indent=2, ensure_ascii=False, default=str)
        self.writer.add_text(
            "config", "    " + text.replace("\n", "\n    "), event.step
        )  # four spaces: code in Markdown

    @_add.register(MetricsLogged)
    @_add.register(ValidationDone)
    def _(self, event: MetricsLogged | ValidationDone) -> None:
        for tag, value in event.values.items():
            self.writer.add_scalar(tag, value, event.step)
        if isinstance(event, ValidationDone):  # what events.jsonl says was done is not done again
            self.writer.flush()

    @_add.register
    def _(self, event: EpochEnded) -> None:
        self.writer.add_scalar("loss/epoch", event.loss, event.step)
        self.writer.add_scalar("performance/minutes per epoch", event.minutes, event.step)

    @_add.register
    def _(self, event: SavingChanged) -> None:
        if event.is_saving:  # a run that goes on from this checkpoint does not write these points again
            self.writer.flush()

    @_add.register
    def _(self, event: SamplesMade) -> None:
        if not event.is_whole:  # the run draws them again when it goes on, and a point can be hidden only by its step
            return
        for sample in event.samples:
            with Image.open(sample.path) as image:
                pixels = np.asarray(image.convert("RGB"))  # (H,W,3)
            self.writer.add_image(f"sample/{sample.index}", pixels, event.step, dataformats="HWC")
        self.writer.flush()
