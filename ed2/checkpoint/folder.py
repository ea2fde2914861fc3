"""A checkpoint's folder: written completely or not at all, with a manifest to verify its bytes.

Needs torch only to write tensors.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ed2.checkpoint.identity import MANIFEST, TRAINING_STATE, read_manifest, state_of
from ed2.disk import TEMPORARY, TRASH, HashingFile, holds, new_folder, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_FORMAT = 1
FORMAT_WITH_MANIFEST = 2
"""The first format of the training state that comes with a manifest."""
HASHING_THREADS = 4
WAIT_SECONDS = 1.0
"""Longest wait at a time: without a limit, Windows would not react to Ctrl-C."""

Pieces = Callable[[], Iterable[bytes | memoryview]]
"""Gives the bytes of a file, piece by piece, as often as it is called."""
NOT_KNOWN: Mapping[str, Pieces] = {}
ByteProgress = Callable[[str, int, int], None]
"""Called with a checkpoint's name, how many of its bytes have been compared, and how many there are.

It is called from one thread at a time, first with 0 bytes and then after each block. It may raise `StopRequested` to
end the comparison.
"""


def no_progress(name: str, done: int, total: int) -> None:
    """A `ByteProgress` that does nothing."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with a checkpoint.

    Attributes:
        text: one of its files, and what is wrong with it.
        is_unreadable: the file cannot be read at the moment. Its content may be fine, so the checkpoint is not renamed.
    """

    text: str
    is_unreadable: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of a file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class NewFolder:
    """A checkpoint that is being written; its files are recorded for the manifest.

    Attributes:
        path: the temporary folder.
        files: what was written, by its path in the folder with forward slashes.
        contents: the bytes of each, which must not change before they have been compared with what was written.
    """

    path: Path
    files: dict[str, FileRecord] = field(default_factory=dict)
    contents: dict[str, Pieces] = field(default_factory=dict)

    def add(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._write(name, lambda: [content])

    def add_tensors(
        self, name: str, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a safetensors file; `metadata` is added to its header."""
        from ed2.models.files.tensor_file import pieces_of

        self._write(name, lambda: pieces_of(tensors, {"format": "pt", **(metadata or {})}))

    def _write(self, name: str, content: Pieces) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            hashing = HashingFile(file)
            for piece in content():
                hashing.write(piece)
        self.files[name] = FileRecord(hashing.num_bytes, hashing.sha256)
        self.contents[name] = content


@contextmanager
def whole_folder(target: Path, about: Mapping[str, Any]) -> Iterator[NewFolder]:
    """Yield a folder to fill, which becomes `target` at the end of the block; `about` is added to its manifest.

    The manifest is written last, and the rename alone makes it a checkpoint. If the block fails, `target` is unchanged.

    Raises:
        FileExistsError: `target` exists; it is never overwritten.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists")
    with new_folder(target) as path:
        folder = NewFolder(path)
        yield folder
        _write_manifest(folder, about)


def _write_manifest(folder: NewFolder, about: Mapping[str, Any]) -> None:
    files = {name: asdict(record) for name, record in sorted(folder.files.items())}
    content = {"format": MANIFEST_FORMAT, **about, "files": files}
    path = folder.path / MANIFEST
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def find_damage(
    checkpoint: Path,
    *,
    with_state: bool = True,
    is_quick: bool = False,
    progress: ByteProgress = no_progress,
    contents: Mapping[str, Pieces] = NOT_KNOWN,
) -> Damage | None:
    """What is wrong with the files of a checkpoint; None if they are unchanged since they were written.

    A checkpoint whose training state was removed to save space is sound. Of one that was written before there were
    manifests, only the headers of the tensor files are checked.

    Args:
        checkpoint: its folder.
        with_state: check the training state too, if there is one.
        is_quick: compare the sizes of the files without reading them.
        progress: called as the bytes are compared; what it raises is passed on.
        contents: the bytes that were just written, to compare with instead of their hashes, which take longer.
    """
    try:
        manifest = read_manifest(checkpoint)
        if not manifest:
            return Damage(f"{MANIFEST} is missing") if _had_manifest(checkpoint) else _damaged_header(checkpoint)
        records = {name: _record(values) for name, values in manifest["files"].items()}
    except OSError as error:
        return _unreadable(MANIFEST, error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Damage(f"{MANIFEST} is invalid")
    if not with_state or not (checkpoint / TRAINING_STATE).exists():
        records = {name: record for name, record in records.items() if not name.startswith(f"{TRAINING_STATE}/")}
    damage = _wrong_size(checkpoint, records)
    if damage or is_quick:
        return damage
    return _wrong_content(checkpoint, records, progress, contents)


def _had_manifest(checkpoint: Path) -> bool:
    """Whether a checkpoint was written by a version with manifests."""
    written_as = state_of(checkpoint).get("format")
    return isinstance(written_as, int) and written_as >= FORMAT_WITH_MANIFEST


def _record(values: Mapping[str, Any]) -> FileRecord:
    """A file's entry in a manifest. Raises TypeError where it is invalid."""
    record = FileRecord(**values)
    if not isinstance(record.bytes, int) or not isinstance(record.sha256, str):
        raise TypeError("no length and hash")
    return record


def damaged_name(checkpoint: Path) -> Path:
    """The hidden name that a damaged checkpoint is renamed to."""
    return checkpoint.with_name(f".damaged-{time.time_ns()}-{checkpoint.name}")


def leftovers_in(folder: Path) -> Iterator[Path]:
    """Half-written and half-removed folders of a killed program among a run's checkpoints."""
    for pattern in (f"{TEMPORARY}*", f"{TRASH}*", f"*/{TRASH}*"):
        yield from folder.glob(pattern)


def remove_leftovers(folder: Path) -> None:
    """Remove half-written and half-removed folders of a killed program from a run's checkpoints."""
    for leftover in leftovers_in(folder):
        shutil.rmtree(leftover, ignore_errors=True)


def _unreadable(name: str, error: OSError) -> Damage:
    return Damage(f"{name} cannot be read ({error.strerror or error})", is_unreadable=True)


def _wrong_size(checkpoint: Path, records: Mapping[str, FileRecord]) -> Damage | None:
    for name, record in records.items():
        try:
            size = (checkpoint / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return Damage(f"{name} is missing")
        except OSError as error:
            return _unreadable(name, error)
        except ValueError:  # no file can have that name
            return Damage(f"{MANIFEST} is invalid")
        if size != record.bytes:
            return Damage(f"{name} has {size:,} bytes instead of {record.bytes:,}")
    return None


class _ByteCounter:
    """Reports the bytes that several threads compare; `is_over` is set once a report has ended the comparison."""

    def __init__(self, name: str, total: int, progress: ByteProgress) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._done, self._lock, self.is_over = 0, threading.Lock(), False
        progress(name, 0, total)

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            try:
                self._progress(self._name, self._done, self._total)
            except BaseException:
                self.is_over = True
                raise


def _wrong_content(
    checkpoint: Path, records: Mapping[str, FileRecord], progress: ByteProgress, contents: Mapping[str, Pieces]
) -> Damage | None:
    counter = _ByteCounter(checkpoint.name, sum(record.bytes for record in records.values()), progress)

    def compare(name: str) -> Damage | None:
        if counter.is_over:
            return None
        try:
            if name in contents:
                is_same = holds(checkpoint / name, contents[name](), counter.add)
            else:
                is_same = sha256_of(checkpoint / name, counter.add) == records[name].sha256
        except OSError as error:
            return _unreadable(name, error)
        return None if is_same else Damage(f"{name} has changed since it was written")

    with ThreadPoolExecutor(HASHING_THREADS, "hash") as threads:
        comparisons = [threads.submit(compare, name) for name in records]
        try:
            for comparison in comparisons:
                while not wait([comparison], WAIT_SECONDS).done:
                    continue
                if damage := comparison.result():
                    return damage
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return None


def _damaged_header(checkpoint: Path) -> Damage | None:
    """The first tensor file that is not as long as its header says, of a checkpoint without a manifest."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    for file in files:
        name = file.relative_to(checkpoint).as_posix()
        try:
            with safe_open(file, framework="pt"):
                pass
        except OSError as error:
            return _unreadable(name, error)
        except SafetensorError:
            return Damage(f"{name} is cut short or not a tensor file")
    if files:
        return None
    return Damage("its weights are missing")
