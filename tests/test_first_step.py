"""From the command line to the first step calls go down only, in the order that docs/architecture.md lists."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from ed2.settings.files import PROGRAM_DIR

Call = tuple[str, str]
PAGE = (PROGRAM_DIR / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## From the command line to the first step")[1].split("\n## ")[0]


def module_of(entry: str) -> str:
    """The module of "app.run.run_training" or "models.files.folder.Folder.open"."""
    parts = entry.split(".")
    while not (PROGRAM_DIR / "ed2" / "/".join(parts)).with_suffix(".py").is_file():
        parts.pop()
    return ".".join(parts)


ENTRIES = re.findall(r"^    ([\w.]+)", SECTION, flags=re.MULTILINE)
COLUMN = list(map(module_of, ENTRIES))


def faults(calls: Iterable[Call], column: list[str]) -> list[str]:
    """The calls between modules that do not go down in the column, or to what it does not list."""
    place = {f"ed2.{module}": number for number, module in enumerate(column)}
    found = []
    for caller, callee in calls:
        if caller not in place or callee not in place:
            found.append(f"{caller} calls {callee}, and the column lacks one of them")
        elif place[caller] >= place[callee]:
            found.append(f"{caller} calls {callee}, which stands higher")
    return found


@pytest.mark.slow
def test_calls_to_the_first_step_go_down_the_column_only(tmp_path: Path) -> None:
    options = ["--max_epochs", "1", "--batch_size", "100", "--sample_prompts", "", "--no_save_ckpt"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.recorded_calls", "--config", "presets/demo.json", "--logdir", tmp_path, *options],
        cwd=PROGRAM_DIR,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = [json.loads(line[5:]) for line in ran.stdout.splitlines() if line.startswith("CALL ")]
    calls = {(caller, callee) for caller, _, callee, _ in told}
    assert ("ed2.app.run", "ed2.app.resolve") in calls and ("ed2.app.execute", "ed2.training.loop") in calls
    assert not faults(calls, COLUMN)
    assert {f"ed2.{module}" for module in COLUMN} == {module for call in calls for module in call}


def test_the_column_lists_each_module_once_with_functions_that_it_has() -> None:
    assert len(set(COLUMN)) == len(COLUMN)
    for entry, module in zip(ENTRIES, COLUMN, strict=True):
        code = (PROGRAM_DIR / "ed2" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for name in filter(None, entry.removeprefix(module).split(".")):
            assert re.search(rf"(?:def|class) {name}\b", code), entry


def test_a_call_up_and_an_unlisted_module_are_found() -> None:
    assert COLUMN[0] == "app.command" and "training.loop" in COLUMN
    assert not faults([("ed2.app.command", "ed2.app.run")], COLUMN)
    assert faults([("ed2.app.build", "ed2.app.resolve")], COLUMN)
    assert faults([("ed2.app.build", "ed2.ui.app")], COLUMN)
