"""A `.ckpt` made into a `.safetensors`: looked at from outside, then read by a process of its own. Needs no torch."""

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
MOST_UNPACKED = 3
"""Times the size of the file; PyTorch does not pack at all."""
TIMEOUT_SECONDS = 1800
SAFE = "Get the .safetensors of this model."


def write_tensors_of(pickle: Path, target: Path) -> None:
    """Write the weights of a `.ckpt` as the safetensors file `target`; nothing that the file asks for is run.

    Raises:
        ModelError: it is damaged, asks for code, or would fill the memory.
    """
    fault = _fault(pickle)
    if fault:
        raise _error(pickle, fault)
    command = [sys.executable, "-m", "ed2.models.files.unpickle", str(pickle.absolute()), str(target.absolute())]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    try:
        child = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _error(pickle, "reading it does not end") from None
    if child.returncode:
        raise _error(pickle, _reason(child))


def _fault(pickle: Path) -> str:
    """Say what is wrong with a file by its directory alone, without the full stop."""
    try:
        if not pickle.is_file():
            return "there is no such file"
        size = pickle.stat().st_size
        with zipfile.ZipFile(pickle) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        reason = "" if isinstance(error, zipfile.BadZipFile) else f" ({error})"
        return f"it is no file of PyTorch 1.6 or later, or it is damaged{reason}"
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MOST_UNPACKED * size:
        return "it unpacks to far more than its size, as if made to fill the memory"
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1:
        return "it holds no weights of PyTorch"
    return "its directory of weights is too large" if pickles[0].file_size > MAX_PICKLE_BYTES else ""


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == REFUSED:
        return printable(str(json.loads(child.stdout)["reason"]), 400)
    last = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return f"reading it failed, maybe for lack of memory ({printable(last, 200)})"


def _error(pickle: Path, what: str) -> ModelError:
    return ModelError(f"{pickle} cannot be converted:", [Problem(None, f"{what}.", SAFE)])
