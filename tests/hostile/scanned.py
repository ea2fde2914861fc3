"""A child that reads a folder as the program does, within a limit on its memory, and prints what it found as JSON.

python -m tests.hostile.scanned FOLDER [GIGABYTES]
"""

import json
import resource
import sys
from pathlib import Path

from ed2.data.folder import ScanOptions, scan


def main(folder: Path, limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = scan([folder], ScanOptions(resolution=64, threads=2))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle
    answer = {
        "used": {e.name: [list(e.size), e.caption] for e in found.examples},
        "problems": {problem.path: [problem.what, problem.fix] for problem in found.problems},
        "notes": [[note.path, note.kind, note.what] for note in found.notes],
        "grown_bytes": grown * 1024,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(float(sys.argv[2]) * 2**30))
