"""Converts a `.ckpt` into a `.safetensors`: checked from outside, then read in a separate process. Needs no torch."""

import io
import json
import os
import pickletools
import subprocess
import sys
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from ed2.errors import ModelError, Problem, printable
from ed2.models.files.header import SAFE, Header, HeaderError, is_pickle, read_header
from ed2.models.files.unpickle import REFUSED

MAX_ENTRIES = 50_000
MAX_PICKLE_BYTES = 64 << 20
MAX_UNPACKED_RATIO = 3
"""PyTorch does not compress at all."""
MAX_STEPS = 2_000_000
"""Of a pickle that is looked through; one of a model has some 50,000."""
PICKLES_OF_OLD_FILE = 4
"""Of a file of PyTorch before 1.6, the first ones: three that say what wrote it, and the tensors."""
TIMEOUT_SECONDS = 1800


def write_tensors_of(pickle: Path, target: Path) -> None:
    """Write the weights of a `.ckpt` as the safetensors file `target`, without running anything in it.

    Raises:
        ModelError: it is damaged, contains code, or would fill the memory.
    """
    _read_apart(pickle, target)


def header_in_pickle(pickle: Path) -> Header:
    """Shapes and metadata of a `.ckpt`, without running anything in it; remembered while it is unchanged.

    Raises:
        ModelError: as `write_tensors_of`.
    """
    try:
        status = pickle.stat()
    except OSError as error:
        raise _error(pickle, f"it cannot be read ({error.strerror or error})") from None
    return _header_in(pickle, status.st_size, status.st_mtime_ns)


def any_header(file: Path) -> Header:
    """Shapes and metadata of a single file in either format. Raises ModelError, HeaderError."""
    if is_pickle(file):
        return header_in_pickle(file)
    return read_header(file)


@lru_cache(maxsize=32)
def _header_in(pickle: Path, size: int, changed_at: int) -> Header:
    listed = json.loads(_read_apart(pickle))
    shapes = {str(name): tuple(shape) for name, shape in listed["shapes"].items()}
    return Header(shapes, {}, listed["metadata"], {})


def _read_apart(pickle: Path, target: Path | None = None) -> str:
    """What the separate process says that writes the weights of a file, or without `target` lists them."""
    problem = _problem_with(pickle)
    if problem:
        raise _error(pickle, problem)
    command = [sys.executable, "-m", "ed2.models.files.unpickle", str(pickle.absolute())]
    if target:
        command.append(str(target.absolute()))
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    try:
        child = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _error(pickle, "reading it takes too long") from None
    if child.returncode:
        raise _error(pickle, _reason(child))
    return child.stdout


def texts_in(pickle: Path) -> set[str]:
    """The texts in a file of PyTorch, among them the names of its tensors: looked up, while nothing of it is run."""
    try:
        if zipfile.is_zipfile(pickle):
            with zipfile.ZipFile(pickle) as archive:
                entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
                contents = [archive.open(entry).read(MAX_PICKLE_BYTES) for entry in entries[:1]]
        else:
            with pickle.open("rb") as file:
                contents = [file.read(MAX_PICKLE_BYTES)]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return set()
    return set().union(*map(_texts, contents))


def _texts(content: bytes) -> set[str]:
    texts: set[str] = set()
    stream, steps = io.BytesIO(content), 0
    try:
        for _ in range(PICKLES_OF_OLD_FILE):
            for _, value, _ in pickletools.genops(stream):
                steps += 1
                if isinstance(value, str):
                    texts.add(value)
                if steps > MAX_STEPS:
                    return texts
    except Exception:  # a file made to harm ends in many ways; what was found is true
        return texts
    return texts


def _problem_with(pickle: Path) -> str:
    """What is wrong with a file, going by its ZIP directory, without the full stop; empty if nothing is."""
    try:
        if not pickle.is_file():
            return "there is no such file"
        size = pickle.stat().st_size
        with zipfile.ZipFile(pickle) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        reason = "" if isinstance(error, zipfile.BadZipFile) else f" ({error})"
        return _other_format(pickle) or f"it is not a file of PyTorch 1.6 or later, or it is damaged{reason}"
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_RATIO * size:
        return "it unpacks to far more than its size, which could fill the memory"
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1:
        return "it contains no PyTorch weights"
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        return "its index of weights is too large"
    return ""


def _other_format(path: Path) -> str:
    """What a file is that is not PyTorch's, without the full stop; empty for one that is damaged."""
    if is_pickle(path):
        return ""
    try:
        read_header(path)
    except HeaderError as error:
        return error.what.rstrip(".")
    return "this is a safetensors file"


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == REFUSED:
        return printable(str(json.loads(child.stdout)["reason"]), 400)
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return f"reading it failed, possibly out of memory ({printable(last, 200)})"


def _error(pickle: Path, what: str) -> ModelError:
    return ModelError(f"{pickle} cannot be converted:", [Problem(None, f"{what}.", SAFE)])
