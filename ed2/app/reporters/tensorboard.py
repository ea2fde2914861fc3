"""TensorBoard: curves, sample images and the settings of a run.

PyTorch's `SummaryWriter` writes from a thread that dies when the disk is first full. Here the same library makes the
records, which are written at once, so that what cannot be written is known and can be written later.
"""

import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
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
"""The version entry of TensorBoard files."""
_SECOND = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


@dataclass
class TensorBoardReporter:
    """Writes a TensorBoard file into the run's folder, created at the first event that it shows.

    Attributes:
        purge_step: in a resumed run, the first step that is written again; TensorBoard hides what an earlier part of
            the run wrote from there on.
    """

    run_dir: Path
    purge_step: int | None = None
    _file: GrowingFile | None = field(default=None, repr=False)

    def __call__(self, event: Event) -> None:
        """Write an event's curves, images or settings. Raises LogWriteError."""
        summaries = list(self._summaries(event))
        if not summaries:
            return
        records = [record(summary=summary, step=event.step) for summary in summaries]
        file = self._open()
        file.write(*records)
        if isinstance(event, RunStarted):  # a file that is created again holds the settings too
            file.head += b"".join(records)

    def close(self) -> str:
        """Close the file; says what was lost."""
        if self._file is None:
            return ""
        return self._file.close()

    def _open(self) -> GrowingFile:
        if self._file is None:
            path = self.run_dir / _file_name(self.run_dir)
            self._file = GrowingFile(path, "The TensorBoard curves", self._head(), is_text=False)
        return self._file

    def _head(self) -> bytes:
        """The beginning of every file."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        begin = record(file_version=FORMAT)
        if self.purge_step is None:
            return begin
        return begin + record(step=self.purge_step, session_log=SessionLog(status=SessionLog.START))

    @singledispatchmethod
    def _summaries(self, event: Event) -> Iterator[Any]:
        """The TensorBoard summaries of an event; none for kinds that are not registered below."""
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

        if not event.is_whole:  # they are drawn again after a resume, and points can be hidden by step only
            return
        for sample in event.samples:
            yield image(f"sample/{sample.index}", _side_by_side(sample.paths), dataformats="HWC")


def _side_by_side(paths: Sequence[Path]) -> np.ndarray[Any, Any]:
    """Images of one height as one (H,W,3): TensorBoard shows one for each prompt."""
    columns = []
    for path in paths:
        with Image.open(path) as image:
            columns.append(np.asarray(image.convert("RGB")))
    return np.concatenate(columns, axis=1)


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
    """A name in TensorBoard's form that sorts after the existing ones, since files are read in order of their names.

    Otherwise, after a clock was set back or within the same second, the points that are hidden would come last.
    """
    second = int(time.time())
    for path in run_dir.glob("events.out.tfevents.*"):
        if found := _SECOND.match(path.name):
            second = max(second, int(found[1]) + 1)
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
