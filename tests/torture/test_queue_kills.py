"""A queue killed at random moments ends with the bytes of single runs; `scripts/torture queue` is the long form."""

import re
import sys

import pytest

from tests.torture.test_kills import torture

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="forks")]


def test_a_queue_killed_four_times_ends_as_its_runs_alone() -> None:
    queue_killed(4)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_queue_killed_two_hundred_times_ends_as_its_runs_alone() -> None:
    queue_killed(200)


def queue_killed(kills: int) -> None:
    said = torture("queue", "--kills", str(kills))
    assert re.search(rf"{kills} kills of the queue, all runs byte-identical", said), said
