"""TensorBoard: curves, sample images and the settings of a run.

PyTorch's `SummaryWriter` writes from a thread that dies at the first full disk, and is of no use from then on. Here its
records are made by the same library and written at once, so that what cannot be written is known, and written later.
"""

import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ed2.app.reporters.growing import GrowingFile
from ed2.curve_names import LOSS_EPOCH, MINUTES_PER_EPOCH
from ed2.events import EpochEnded, Event, MetricsLogged, RunStarted, SamplesMade, ValidationDone

FORMAT = "brain.Event:2"
"""What TensorBoard's files say of themselves."""
_SECOND = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


@dataclass
class TensorBoardReporter:
    """Writes a TensorBoard file into the run's folder, made at the first event that has a place in it.

    Attributes:
        purge_step: where a run is continued, the first step that will be written anew: TensorBoard hides what an
            earlier part of the run wrote from there on.
    """

    run_dir: Path
    purge_step: int | None = None
    _file: GrowingFile | None = field(default=None, repr=False)

    def __call__(self, event: Event) -> None:
        """Write what an event holds for TensorBoard. Raises LogWriteError."""
        summaries = list(self._summaries(event))
        if not summaries:
            return
        records = [record(summary=summary, step=event.step) for summary in summaries]
        file = self._opened()
        file.write(*records)
        if isinstance(event, RunStarted):  # a file that is made anew holds the settings too
            file.head += b"".join(records)

    def close(self) -> str:
        """Close the file; says what is lost."""
        return self._file.close() if self._file else ""

    def _opened(self) -> GrowingFile:
        if self._file is None:
            path = self.run_dir / _file_name(self.run_dir)
            self._file = GrowingFile(path, "The TensorBoard curves", self._head(), is_text=False)
        return self._file

    def _head(self) -> bytes:
        """What a file begins with."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        begin = record(file_version=FORMAT)
        if self.purge_step is None:
            return begin
        return begin + record(step=self.purge_step, session_log=SessionLog(status=SessionLog.START))

    @singledispatchmethod
    def _summaries(self, event: Event) -> Iterator[Any]:
        """What an event is in TensorBoard's terms; what is not named below has no place there."""
        return iter(())

    @_summaries.register
    def _(self, event: RunStarted) -> Iterator[Any]:
        from torch.utils.tensorboard.summary import text  # takes a second to import

        config = json.dumps(dict(event.config), indent=2, ensure_ascii=False, default=str)
        yield text("config", "    " + config.replace("\n", "\n    "))  # four spaces: code in Markdown

    @_summaries.register(MetricsLogged)
    @_summaries.register(ValidationDone)
    def _(self, event: MetricsLogged | ValidationDone) -> Iterator[Any]:
        return _scalars(event.values)

    @_summaries.register
    def _(self, event: EpochEnded) -> Iterator[Any]:
        return _scalars({LOSS_EPOCH: event.loss, MINUTES_PER_EPOCH: event.minutes})

    @_summaries.register
    def _(self, event: SamplesMade) -> Iterator[Any]:
        from torch.utils.tensorboard.summary import image

        if not event.is_whole:  # the run draws them again when it goes on, and a point can be hidden only by its step
            return
        for sample in event.samples:
            with Image.open(sample.path) as sample_image:
                pixels = np.asarray(sample_image.convert("RGB"))  # (H,W,3)
            yield image(f"sample/{sample.index}", pixels, dataformats="HWC")


def record(**values: Any) -> bytes:
    """One entry of a TensorBoard file, made now."""
    from tensorboard.compat.proto.event_pb2 import Event as Entry
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    RecordWriter(content).write(Entry(wall_time=time.time(), **values).SerializeToString())
    return content.getvalue()


def _scalars(values: Mapping[str, float]) -> Iterator[Any]:
    from torch.utils.tensorboard.summary import scalar

    return (scalar(tag, value) for tag, value in values.items())


def _file_name(run_dir: Path) -> str:
    """A name by TensorBoard's rules that comes after those that are there: files are read in the order of their names.

    A clock that was set back, or a second that has not passed, would put the points that are hidden last.
    """
    there = [int(found[1]) for path in run_dir.glob("events.out.tfevents.*") if (found := _SECOND.match(path.name))]
    second = max([int(time.time()), *(last + 1 for last in there)])
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
