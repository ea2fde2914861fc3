"""All the long tests as one command: each part in a process of its own, with what it does and how long it took."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOAK = ("-m", "soak", "--timeout", "0")
KEPT_LINES = 40
"""Of what a part has said, shown where it failed."""
REPORTING = re.compile(r"^\d\d:\d\d:\d\d |lost|crash points|kills \(|10,000 steps:|passed|failed")
"""Lines of a part that are shown as it goes."""


@dataclass(frozen=True)
class Part:
    """One of the long tests.

    Attributes:
        name: a word.
        does: what it does, in a sentence.
        minutes: about how long it takes on two cores, in its long form and as in each test run.
        long: arguments of Python for the long form.
        short: the same for the size that it has in each test run.
    """

    name: str
    does: str
    minutes: tuple[float, float]
    long: tuple[str, ...]
    short: tuple[str, ...]


def _of_tests(name: str, does: str, minutes: tuple[float, float], file: str, short: str) -> Part:
    """A part that is a long test of `file`; those with the word `short` in their names are its short form."""
    run = ("-m", "pytest", "-s", file)
    return Part(name, does, minutes, (*run, *SOAK), (*run, "-m", "not soak", "-k", short))


OF_TESTS = (
    _of_tests(
        "crash",
        "A save dies at each of its calls of the file system, then at each of its writes too.",
        (13, 0.5),
        *("tests/checkpoint/test_crash.py", "dies"),
    ),
    _of_tests(
        "full",
        "The disk is full at 40 sizes of a file while a run saves.",
        (3, 0.3),
        *("tests/checkpoint/test_disk_full.py", "full_disk"),
    ),
    _of_tests(
        "fuzz",
        "Files of every kind are changed at random 10,000 times and read.",
        (8, 0.3),
        *("tests/hostile/test_fuzz.py", "change"),
    ),
    _of_tests(
        "pixels",
        "Images of 100 million pixels are read in bounded memory.",
        (1, 0.3),
        *("tests/hostile/test_images.py", "memory"),
    ),
    _of_tests(
        "sdxl",
        "Runs of SDXL, and of two processes, are killed with -9 twenty times with each of five sets of options.",
        (10, 0.5),
        *("tests/torture/test_kills.py", "sdxl"),
    ),
    _of_tests(
        "ranks",
        "Runs in several processes are started by other launchers, and their processes fail in every way.",
        (4, 1),
        *("tests/app/test_several_processes.py", "process"),
    ),
    _of_tests(
        "queue",
        "A queue of runs, one of which fails, is killed with -9 two hundred times.",
        (12, 0.6),
        *("tests/torture/test_queue_kills.py", "six"),
    ),
    Part(
        "lora",
        "The demo is trained as a LoRA, merged, and looked at; in short, a LoRA of its first steps is extracted.",
        (3, 0.3),
        ("-m", "pytest", "-s", "tests/demo/test_teaching.py", *SOAK),
        ("-m", "pytest", "-s", "tests/demo/test_extraction.py"),
    ),
    _of_tests(
        "adviser",
        "The demo is trained until it memorises its images, which the adviser has to say.",
        (4, 0.3),
        *("tests/app/test_adviser.py", "adviser"),
    ),
    _of_tests(
        "commands",
        "A thousand random commands are given to a run, of which the bytes are compared.",
        (3, 0.3),
        *("tests/app/test_service.py", "paused"),
    ),
    _of_tests(
        "clicks",
        "A thousand random clicks in a browser and a hundred reloads during a run, of which the bytes are compared.",
        (17, 1),
        *("tests/ui/test_clicks.py", "clicks"),
    ),
)


def parts(kills: int, steps: int, seed: int) -> list[Part]:
    """Every part, those first that the others rest upon."""
    torture = "scripts/torture"
    return [
        Part(
            "kills",
            "Runs are killed with -9 at random moments until they are done, and compared byte by byte.",
            (27, 1),
            (torture, "kills", "--kills", str(kills), "--seed", str(seed)),
            (torture, "kills", "--kills", "10", "--seed", str(seed)),
        ),
        Part(
            "soak",
            "One process trains on and on; its memory, threads and files are counted.",
            (15, 0.5),
            (torture, "soak", "--steps", str(steps)),
            ("-m", "pytest", "-s", "tests/torture/test_soak.py"),
        ),
        *OF_TESTS,
    ]


def everything(chosen: Sequence[Part], tell: Callable[[str], object], *, is_short: bool) -> int:
    """Do the parts, one after the other; one that fails does not stop the others.

    Returns:
        0, or 1 where a part failed.
    """
    about = sum(part.minutes[is_short] for part in chosen)
    tell(f"{len(chosen)} parts, about {about:.0f} minutes on two cores; Ctrl-C ends it with what was found so far.")
    ended: list[str] = []
    failed = 0
    try:
        for number, part in enumerate(chosen, 1):
            minutes = part.minutes[is_short]
            form = "In short, about" if is_short else "About"
            tell(f"[{number}/{len(chosen)}] {part.name}: {part.does} {form} {minutes:g} min.")
            began = time.monotonic()
            is_right = _done(part.short if is_short else part.long, tell)
            failed += not is_right
            took = f"{(time.monotonic() - began) / 60:.1f} min"
            ended.append(f"{part.name:<9} {'as it should be' if is_right else 'FAILED':<15} {took}")
            tell(f"[{number}/{len(chosen)}] {ended[-1]}")
    except KeyboardInterrupt:
        failed += 1
    finally:
        left = [part.name for part in chosen[len(ended) :]]
        tell("\n  ".join(["In all:", *ended, *(f"{name:<9} not ended" for name in left)]))
    return int(failed > 0)


def _done(argv: Sequence[str], tell: Callable[[str], object]) -> bool:
    """Do a part in a process of its own, and show what it reports; all that it said where it failed."""
    folder = Path(tempfile.mkdtemp(prefix="torture-part-"))
    said: list[str] = []
    command = [sys.executable, "-W", "ignore", *argv]
    if "pytest" in argv:
        command += ["-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                said.append(line.rstrip())
                if REPORTING.search(line):
                    tell(f"    {said[-1]}")
        except BaseException:
            process.terminate()  # it leaves with what it has found so far
            raise
        code = process.wait()
    if code:
        tell("\n    ".join([f"It ended with {code}; the last that it said:", *said[-KEPT_LINES:]]))
    shutil.rmtree(folder, ignore_errors=True)
    return not code
