"""`python -m ed2 cache`: how much the caches take, and removing what has not been used lately. Needs no torch."""

import argparse
import math
import sys
import time
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path

from ed2.app.command_line import SWITCH, CommandSyntax
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import MemorySettings
from ed2.terminal import LAUNCHER
from ed2.text import counted, file_size

DAY_SECONDS = 86_400
SHARDS = "[!.]*.safetensors"
KINDS = ("latents", "text")


def find_shards(cache_dir: Path, older_than_days: float) -> dict[Path, int]:
    """The files of all caches in a folder that no run has used for this many days, with their sizes."""
    limit, found = time.time() - older_than_days * DAY_SECONDS, {}
    for path in sorted(chain(*(cache_dir.glob(f"{kind}-*/{SHARDS}") for kind in KINDS))):
        status = path.stat()
        if status.st_mtime <= limit:
            found[path] = status.st_size
    return found


def remove(shards: Iterable[Path]) -> None:
    """Remove files, and the folders that are then without any. Raises OSError."""
    folders = set()
    for path in shards:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        if not any(folder.glob(SHARDS)):
            for file in folder.glob("*.json"):
                file.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def _amount(sizes: Collection[int]) -> str:
    """How many files there are, and their size."""
    return f"{counted(len(sizes), 'file')}, {file_size(sum(sizes))}"


def _problems(given: argparse.Namespace) -> list[Problem]:
    problems = []
    try:
        given.older_than = float(given.older_than or "nan")
    except ValueError:
        given.older_than = math.nan
    if not 0 <= given.older_than < math.inf:
        problems.append(Problem("--older_than", "it is not a number of days.", "Give a number, such as 30."))
    if not given.cache_dir:
        problems.append(Problem("--cache_dir", "the folder is missing.", "Name it, or leave the flag out."))
    return problems


def _perform(given: argparse.Namespace) -> None:
    """Show or remove what the flags name. Raises Ed2Error."""
    folder = Path(given.cache_dir)
    try:
        shards = find_shards(folder, given.older_than)
        if given.delete:
            remove(shards)
    except OSError as error:
        failed = "removed" if given.delete else "read"
        raise Ed2Error(f"The cache {folder} cannot be {failed}", f"{plain_reason(error)}.") from None
    age = f" not used for {given.older_than:g} days" if given.older_than else ""
    if given.delete:
        sys.stdout.write(f"Removed the files{age} in {folder}: {_amount(shards.values())}.\n")
        return
    for kind in KINDS:
        own = [size for path, size in shards.items() if path.parent.name.startswith(kind)]
        sys.stdout.write(f"{kind:<8} {_amount(own)}{age}\n")
    if shards:
        sys.stdout.write("Remove them with --delete; --older_than DAYS keeps what was used since.\n")


COMMAND = CommandSyntax(
    use=f"{LAUNCHER} cache",
    help="""\
[--cache_dir FOLDER] [--older_than DAYS] [--delete]

Show how much the caches of latents and captions take. --delete removes them, with --older_than only what no run has
used for so many days. Nothing is lost: what a run needs is made again.""",
    flags={
        "cache_dir": {"nargs": "?", "default": str(PROGRAM_DIR / MemorySettings().cache_dir)},
        "older_than": {"nargs": "?", "default": "0"},
        "delete": SWITCH,
    },
    check=_problems,
    perform=_perform,
)
