"""The short form of `scripts/attack`: a stranger on the monitor page costs a run nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from ed2.settings.files import PROGRAM_DIR
from ed2.ui.connections import Connections

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the handles of a program")
def test_a_run_under_attack_ends_with_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/attack", "--short", "--folder", str(tmp_path / "attack")]
    done = subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, timeout=450)
    assert done.stdout.endswith("All held.\n"), done.stdout + done.stderr


@pytest.mark.parametrize("handles", [64, 256, 1024, 8192])
def test_two_pages_leave_most_of_the_handles_to_the_run(handles: int) -> None:
    budget = Connections.within(handles)
    assert budget.max_strangers >= 12
    assert 2 * (budget.max_strangers + budget.max_known) <= max(48, handles // 2)
