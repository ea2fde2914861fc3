"""Captions made automatically: drafts for the images that have none, in a thread of this program.

Needs no torch until it begins.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ed2.app.background import BackgroundTask, TaskStatus
from ed2.app.images.scanning import TimeLeft
from ed2.app.local_models import converted
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.workbench import Item
from ed2.data.images import ImageError, decode
from ed2.errors import Ed2Error, RefusedError
from ed2.models.captioner import CaptionerFiles, load_captioner
from ed2.text import counted, plural

MODEL = "Salesforce/blip-image-captioning-base"
"""Ready in the box; under BSD-3, about 1 GB."""
KEPT = "The captions made by then are kept as drafts."


@dataclass
class _Progress:
    """What became of the images so far."""

    made: int = 0
    unreadable: int = 0
    without: int = 0

    def as_text(self, num_skipped: int) -> str:
        """In sentences, with the number of images that were left as they are."""
        text = f"{counted(self.made, 'caption')} made. Look through them, then save or discard them."
        if num_skipped:
            text += f" {counted(num_skipped, 'image')} left as {plural(num_skipped, 'it is', 'they are')}."
        if self.unreadable:
            text += f" {counted(self.unreadable, 'image')} could not be read."
        if self.without:
            text += f" For {counted(self.without, 'image')} the model found no words."
        return text


class AutoCaptioner(BackgroundTask[TaskStatus]):
    """Makes captions for images of the desk, one image after the other."""

    def __init__(self, desk: DatasetDesk, is_training: Callable[[], bool], read_libraries: Callable[[], None]) -> None:
        super().__init__("captioning", TaskStatus(), is_training, at_stop=KEPT)
        self._desk, self._read_libraries = desk, read_libraries

    def start(self, numbers: Iterable[int], model: Path, *, replaces: bool) -> None:
        """Begin.

        Args:
            numbers: of the images.
            model: the folder of a BLIP model.
            replaces: whether images that have a caption get another one as a draft; what was typed stays.

        Raises:
            RefusedError: a run or captioning is in progress, or no image needs a caption.
            ModelError: this is no such model.
        """
        files, chosen = CaptionerFiles.of(model), list(numbers)
        items = self._desk.to_caption(chosen, replaces=replaces)
        if not items:
            fix = "Choose others, or have captions replaced." if not replaces else "Choose others."
            raise RefusedError("There is nothing to caption", "each of these images has a caption or a draft", fix)
        self.begin("Cannot caption now", partial(self._work, items, files, len(chosen) - len(items)))

    def _work(self, items: Sequence[Item], files: CaptionerFiles, num_skipped: int) -> TaskStatus:
        """Raises Ed2Error, StopRequested."""
        self.tell("Loading libraries.")
        self._read_libraries()
        import torch

        from ed2.models.memory import is_out_of_memory, release_memory

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weights = self._converted(files)
        self.tell("Loading the model.")
        try:
            progress = self._captioned(items, files, weights, device.type)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise Ed2Error("Out of memory while captioning", KEPT, "Close other programs, then try again.") from None
        finally:
            release_memory(device)
        return TaskStatus("done", progress.as_text(num_skipped))

    def _converted(self, files: CaptionerFiles) -> Path:
        """The weights as safetensors."""
        path = files.weights.path
        if not files.weights.is_pickled:
            return path

        def read(name: str, done: int, total: int) -> None:
            self.tell(f"Reading {name}: {done / max(1, total):.0%}.")

        return converted(path, read, lambda text: self.tell(f"{text[0].upper()}{text[1:]}."))[0]

    def _captioned(self, items: Sequence[Item], files: CaptionerFiles, weights: Path, device: str) -> _Progress:
        caption = load_captioner(files, weights, device)
        progress, time_left = _Progress(), TimeLeft()
        for number, item in enumerate(items):
            self.tell(f"Image {number + 1:,} of {len(items):,}{time_left.suffix(number, len(items))}.")
            try:
                image = decode(item.path, at_least=(files.side, files.side))
            except ImageError:
                progress.unreadable += 1
                continue
            text = caption(image)
            if not text:
                progress.without += 1
            elif self._desk.propose(item, text):
                progress.made += 1
        return progress
