"""Turning a `.ckpt` into a `.safetensors`: checked from outside, then read in a separate process. Needs no torch."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ed2.errors import ModelError, Problem, printable
from ed2.models.files.unpickle import REFUSED

MAX_ENTRIES = 50_000
MAX_PICKLE_BYTES = 64 << 20
MAX_UNPACKED_RATIO = 3
"""PyTorch does not compress at all."""
TIMEOUT_SECONDS = 1800
SAFE = "Get the .safetensors of this model."


def write_tensors_of(pickle: Path, target: Path) -> None:
    """Write the weights of a `.ckpt` as the safetensors file `target`, without running anything in it.

    Raises:
        ModelError: it is damaged, contains code, or would fill the memory.
    """
    problem = _problem_with(pickle)
    if problem:
        raise _error(pickle, problem)
    command = [sys.executable, "-m", "ed2.models.files.unpickle", str(pickle.absolute()), str(target.absolute())]
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
        return f"it is not a file of PyTorch 1.6 or later, or it is damaged{reason}"
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_RATIO * size:
        return "it unpacks to far more than its size, which could fill the memory"
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1:
        return "it contains no PyTorch weights"
    return "its index of weights is too large" if pickles[0].file_size > MAX_PICKLE_BYTES else ""


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == REFUSED:
        return printable(str(json.loads(child.stdout)["reason"]), 400)
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return f"reading it failed, possibly out of memory ({printable(last, 200)})"


def _error(pickle: Path, what: str) -> ModelError:
    return ModelError(f"{pickle} cannot be converted:", [Problem(None, f"{what}.", SAFE)])
