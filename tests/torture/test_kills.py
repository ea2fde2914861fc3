"""Runs killed at random moments end with the bytes of one that was left alone; scripts/torture is the long form."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ed2.app.resume_test.comparison import differences
from ed2.settings.files import PROGRAM_DIR
from tests.app.test_two_text_encoders import tensors_of
from tests.torture.kills import newest_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="forks")]
KILLS = 6


def torture(*argv: str) -> str:
    """What `scripts/torture` says; a process of its own, since nothing in it may have computed before it forks."""
    command = [sys.executable, "-W", "ignore", str(PROGRAM_DIR / "scripts" / "torture"), *argv]
    done = subprocess.run(command, capture_output=True, text=True)  # the time limit of the test ends it too
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run that was killed again and again, and one that was not."""
    folder = tmp_path_factory.mktemp("torture") / "kept"
    options = "accumulation,ema,validation,sampling,8-bit,threads,cached"
    return folder, torture("kills", "--kills", str(KILLS), "--options", options, "--folder", str(folder))


def test_runs_killed_again_and_again_end_with_the_same_bytes(killed: tuple[Path, str]) -> None:
    said = killed[1]
    found = re.search(r"(\d+) kills \((.*)\), (\d+) runs ended, all byte-identical", said)
    assert found, said
    assert int(found[1]) == KILLS
    assert int(found[3]) >= 1


def test_sdxl_with_three_trained_networks_ends_with_the_same_bytes(tmp_path: Path) -> None:
    sdxl_killed(1, "chunks,low-memory", tmp_path / "kept")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("options", ["chunks", "chunks,ema,validation,sampling", "chunks,low-memory,ema"])
def test_sdxl_killed_twenty_times_ends_with_the_same_bytes(options: str, tmp_path: Path) -> None:
    sdxl_killed(20, options, tmp_path / "kept")


def test_a_run_in_two_processes_that_was_killed_ends_with_the_same_bytes() -> None:
    killed_in_two_processes(2, "")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("options", ["ema,validation,sampling,cached", "low-memory"])
def test_runs_in_two_processes_killed_twenty_times_end_with_the_same_bytes(options: str) -> None:
    killed_in_two_processes(20, options)


def killed_in_two_processes(kills: int, options: str) -> None:
    """Kill the first process of a run so often; the other one ends by itself."""
    said = torture("kills", "--processes", "2", "--kills", str(kills), "--options", options)
    assert re.search(rf"{kills} kills \(.*\), \d+ runs ended, all byte-identical", said), said


def sdxl_killed(kills: int, options: str, folder: Path) -> None:
    """Kill runs of SDXL so often, and hold that all three networks were trained."""
    said = torture("kills", "--family", "sdxl", "--kills", str(kills), "--options", options, "--folder", str(folder))
    assert re.search(rf"{kills} kills \(.*\), \d+ runs ended, all byte-identical", said), said
    (last,) = newest_run(folder / "killed").glob("ckpts/last-*[!a]")
    for part in ("unet", "text_encoder", "text_encoder_2"):
        before, after = tensors_of(folder / "model", part), tensors_of(last, part)
        assert before.keys() == after.keys()
        assert any(not torch.equal(tensor, after[name].to(tensor.dtype)) for name, tensor in before.items()), part


@pytest.mark.parametrize("what", ["weights", "log", "image"])
def test_the_comparison_sees_a_single_byte(killed: tuple[Path, str], tmp_path: Path, what: str) -> None:
    run = newest_run(killed[0] / "killed")
    copied = shutil.copytree(run, tmp_path / run.name)
    assert not differences(run, copied)
    if what == "log":
        lines = (copied / "events.jsonl").read_text().splitlines()
        last = json.loads(next(line for line in reversed(lines) if "MetricsLogged" in line))
        last["values"]["loss/log_step"] += 1e-12
        (copied / "events.jsonl").write_text("\n".join([*lines, json.dumps(last)]))
    else:
        pattern = "ckpts/last-*/unet/*.safetensors" if what == "weights" else "samples/gs*/00-cfg1.png"
        file = sorted(copied.glob(pattern))[-1]
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert differences(run, copied)
