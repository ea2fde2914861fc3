"""A child that reads a folder as the program does, within a limit on its memory, and prints what it found as JSON.

python -m tests.hostile.scanned FOLDER [GIGABYTES]
"""

import json
import resource
import sys
from pathlib import Path

from ed2.data.folder import ScanOptions, scan


def peak_bytes() -> int:
    """The most memory that this process has had; unlike ru_maxrss it knows nothing of the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(folder: Path, limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    idle = peak_bytes()
    found = scan([folder], ScanOptions(resolution=64, threads=2))
    answer = {
        "used": {e.name: [list(e.size), e.caption] for e in found.examples},
        "problems": {problem.path: [problem.what, problem.fix] for problem in found.problems},
        "notes": [[note.path, note.kind, note.what] for note in found.notes],
        "grown_bytes": peak_bytes() - idle,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(float(sys.argv[2]) * 2**30))
