"""What a stop signal does at the first time, at the second, and when the terminal is gone."""

import signal
import subprocess
import sys

import pytest

from ed2.settings.files import PROGRAM_DIR

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals of its own")
PROGRAM = """
import os, signal, sys, time
from ed2.app.signals import stopping_on_signals
if sys.argv[2] == "hung up":
    os.close(2)
words = lambda: "no run here"
with stopping_on_signals(lambda number: os.write(1, b"asked %d" % number), words):
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    os.write(1, b" and saved")
"""


def ended(times: int, terminal: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(times), terminal]
    return subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, timeout=100)


def stopped(times: int, terminal: str = "") -> tuple[int, str]:
    done = ended(times, terminal)
    return done.returncode, done.stdout


def test_what_the_terminal_is_reported_depends_on_the_moment() -> None:
    assert ended(1).stderr.strip() == "no run here"


def test_the_first_signal_requests_a_stop_and_the_second_exits_at_once() -> None:
    assert stopped(1) == (0, f"asked {int(signal.SIGTERM)} and saved")
    assert stopped(2) == (128 + signal.SIGTERM, f"asked {int(signal.SIGTERM)}")


def test_a_run_is_saved_even_if_the_terminal_has_hung_up() -> None:
    assert stopped(1, "hung up") == (0, f"asked {int(signal.SIGTERM)} and saved")
