"""Random changes to valid files of every kind that is read: nothing but an `Ed2Error` may come of it.

Half of the changes to JSON are to a few of its bytes, half to one of its values: deep nesting, infinity, another kind.

A few in the daily tests; ten thousand with: ED2_FUZZ_SEED=0 python -m pytest -m soak tests/hostile/test_fuzz.py -s
"""

import os
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ed2.models.compute import quiet_libraries
from tests.hostile.mutations import is_json, misshapen, mutated
from tests.hostile.targets import Target, all_targets, tried
from tests.runs import train

SHORT, LONG = 240, 10_000


@pytest.fixture(scope="module")
def targets(sd1: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("fuzz")
    values = {"data_root": [str(images)], "resume_ckpt": str(sd1), "resolution": 64, "max_epochs": 2, "batch_size": 8}
    values |= {"logdir": str(folder / "first"), "sample_prompts": str(folder / "none"), "no_save_ckpt": True}
    trained = train({**values, "disable_textenc_training": True}, stop_at=1)
    return list(all_targets(folder, sd1, trained))


def faults(targets: list[Target], number: int) -> list[str]:
    """Spoil each file in turn; what came out that was no `Ed2Error`, each place of the code once."""
    seed = int(os.environ.get("ED2_FUZZ_SEED", "0"))
    found: dict[str, str] = {}
    times = Counter[str]()
    for turn in range(number):
        target = targets[turn % len(targets)]
        generator = np.random.default_rng((seed, turn))
        is_shaped = is_json(target.content) and generator.random() < 0.5
        content = (misshapen if is_shaped else mutated)(target.content, generator)
        error = tried(target, content)
        if error is not None:
            place = str(traceback.extract_tb(error.__traceback__)[-1])
            times[place] += 1
            found.setdefault(place, f"turn {turn}, {target.name}: {error!r:.200} at {place}")
    print(f"{number:,} changes to {len(targets)} kinds of files, {times.total()} uncaught exceptions")
    listed = [f"{text} ({times[place]} times)" for place, text in found.items()]
    print("\n".join(listed))
    return listed


def test_whole_files_are_read_and_an_exception_would_be_seen(targets: list[Target], tmp_path: Path) -> None:
    for target in targets:
        target.read()
    broken = Target("broken", tmp_path / "x", lambda: 1 / 0, b"")
    assert isinstance(tried(broken, b"y"), ZeroDivisionError)


def test_no_change_of_a_few_bytes_ends_in_a_traceback(targets: list[Target]) -> None:
    assert faults(targets, SHORT) == []


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_change_of_ten_thousand_ends_in_a_traceback(targets: list[Target]) -> None:
    assert faults(targets, LONG) == []
