"""What the page does with a checkpoint of a run, in a thread of this program: a LoRA, its single file, an image.

Needs no torch until it begins.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ed2.app.background import BackgroundTask, TaskStatus
from ed2.app.model_commands import MAX_RANK
from ed2.app.run_settings import checkpoint_at, settings_of_checkpoint
from ed2.checkpoint.identity import is_ours
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, ModelError, Problem, RefusedError, SettingsError, printable
from ed2.models.files.base_model import locate
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.terminal import LAUNCHER

BASE = "resume_ckpt"


@dataclass(frozen=True)
class LoraSource:
    """What a LoRA is extracted from, and where it goes.

    Attributes:
        base: the model that the training began with.
        checkpoint: what the training made of it.
        folder: of the run's single files.
        dtype: of the run's single files: fp16, bf16 or fp32.
        note: a sentence if `base` is not the very first model.
    """

    base: Path
    checkpoint: Path
    folder: Path
    dtype: str
    note: str = ""

    @classmethod
    def of(cls, checkpoint: Path) -> "LoraSource":
        """From the settings of the run that a checkpoint belongs to. A run that began with another run is followed.

        Raises:
            ModelError: the base model is not on this computer, or the checkpoint is a LoRA.
            SettingsError: the settings of the run are damaged.
        """
        if is_lora_checkpoint(checkpoint):
            what = f"{printable(checkpoint.name)} is a LoRA already; its single file can be used as it is."
            raise ModelError("There is nothing to extract:", [Problem(None, what)])
        values = settings_of_checkpoint(checkpoint)
        settings = with_defaults(values).checkpoint
        base, note = _base_of(checkpoint, str(values.get(BASE) or ""))
        folder = Path(settings.save_ckpt_dir or PROGRAM_DIR)
        return cls(base, checkpoint, folder, settings.single_file_dtype, note)

    def target(self, rank: int) -> Path:
        """The name of the LoRA, which may be taken."""
        return self.folder / f"{self.checkpoint.name}-lora-r{rank}.safetensors"


def _base_of(checkpoint: Path, name: str) -> tuple[Path, str]:
    """The model that a run began with, or the oldest checkpoint on the way there that still exists; and a note.

    Raises:
        ModelError: there is none.
    """
    found: Path | None = None
    visited = {checkpoint}
    while True:
        place = locate(name) if name else None
        if place is None:
            break
        path = checkpoint_at(place.path) or place.path
        if path in visited:
            break
        found = path
        visited.add(path)
        if not is_ours(path):
            return path, ""
        name = str(settings_of_checkpoint(path).get(BASE) or "")
    what = f"there is no {printable(name, 1000)}." if name else "the run does not say which it was."
    if found is None:
        fix = f"Move it back to this place, or name it yourself: {LAUNCHER} extract-lora BASE MODEL TARGET"
        raise ModelError("The base model of this run is missing:", [Problem(None, what, fix)])
    return found, f"The LoRA is for this checkpoint, since its own base model is missing: {what}"


@dataclass(frozen=True)
class ExtractionStatus(TaskStatus):
    """Progress or outcome of an extraction.

    Attributes:
        path: the LoRA.
        base: the model that it is for.
        shares: what it keeps of each network, in sentences.
    """

    path: Path | None = None
    base: Path | None = None
    shares: tuple[str, ...] = ()


class LoraExtractor(BackgroundTask[ExtractionStatus]):
    """Holds the extraction of this program."""

    def __init__(self, is_training: Callable[[], bool], read_libraries: Callable[[], None]) -> None:
        super().__init__("an extraction", ExtractionStatus(), is_training, at_stop="Nothing was written.")
        self._read_libraries = read_libraries

    def start(self, source: LoraSource, rank: int) -> None:
        """Begin an extraction.

        Raises:
            RefusedError: a run or an extraction is in progress, or this is not a rank.
        """
        if not 1 <= rank <= MAX_RANK:
            raise RefusedError(f"{rank} is not a rank", f"it is a whole number from 1 to {MAX_RANK:,}", "")
        self.begin("Cannot extract now", partial(self._work, source, rank))

    def _work(self, source: LoraSource, rank: int) -> ExtractionStatus:
        """Raises Ed2Error."""
        try:
            return self._extracted(source, rank)
        except OSError as error:
            why = f"{plain_reason(error)}."
            raise Ed2Error(f"The LoRA cannot be written to {source.folder}", why, "Free some space there.") from None

    def _extracted(self, source: LoraSource, rank: int) -> ExtractionStatus:
        self._read_libraries()
        import torch

        from ed2.app.lora import LoraTarget, extract_lora
        from ed2.checkpoint.resume import require_sound
        from ed2.models.compute import DTYPES
        from ed2.models.lora.arithmetic import RankOptions
        from ed2.models.memory import release_memory

        for model in (source.base, source.checkpoint):
            require_sound(model, with_state=False, progress=self._compared)
        _make_folder(source.folder)
        try:
            target = LoraTarget(source.target(rank), DTYPES[source.dtype], is_numbered=True)
            options = RankOptions(rank)
            written = extract_lora(source.base, source.checkpoint, target, options, self._layer_done)
        finally:
            release_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return ExtractionStatus("done", source.note, written.path, source.base, tuple(written.sentences()))

    def _compared(self, name: str, done: int, total: int) -> None:
        self.tell(f"Checking {name}: {done / max(1, total):.0%}.")

    def _layer_done(self, title: str, done: int, total: int) -> None:
        self.tell(f"{title[0].upper()}{title[1:]}: {done:,} of {total:,} layers.")


def _make_folder(folder: Path) -> None:
    """Make the folder of single files, unless more than itself is missing: then it is on a drive that is not there.

    Raises:
        SettingsError: it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        what = f"{printable(str(folder), 1000)} cannot be used: {plain_reason(error)}."
        problem = Problem("save_ckpt_dir", what, "Create this folder, or connect its drive.")
        raise SettingsError("The folder for single files of this run is missing:", [problem]) from None


@dataclass(frozen=True)
class WorkStatus(TaskStatus):
    """Progress or outcome of an export or a drawing.

    Attributes:
        doing: what is done, such as *Single file of NAME*.
        path: the single file or the image.
        exported: the checkpoint of a single file; None for an image.
    """

    doing: str = ""
    path: Path | None = None
    exported: Path | None = None


class CheckpointWork(BackgroundTask[WorkStatus]):
    """Exports checkpoints, and draws with them."""

    def __init__(self, is_training: Callable[[], bool], read_libraries: Callable[[], None]) -> None:
        super().__init__("a task", WorkStatus(), is_training, at_stop="Nothing was written.")
        self._read_libraries = read_libraries

    def export(self, checkpoint: Path) -> None:
        """Write the single file of a checkpoint. Raises RefusedError."""

        def work() -> Path:
            from ed2.app.checkpoint_use import export_single_file

            return export_single_file(checkpoint, self.tell)

        self._start(work, WorkStatus(doing=f"Single file of {checkpoint.name}", exported=checkpoint))

    def draw(self, checkpoint: Path, text: str, seed: int, cfg: float) -> None:
        """Draw an image of a prompt. Raises RefusedError."""

        def work() -> Path:
            from ed2.app.checkpoint_use import draw_prompt

            return draw_prompt(checkpoint, text, seed, cfg, self.tell)

        self._start(work, WorkStatus(doing=f"Image by {checkpoint.name}"))

    def _start(self, work: Callable[[], Path], begun: WorkStatus) -> None:
        def whole() -> WorkStatus:
            self.tell("Loading libraries.")
            self._read_libraries()
            return replace(begun, state="done", path=work())

        self.begin("Not now", whole, begun)
