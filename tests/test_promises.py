"""Each promise of SECURITY.md, and each figure of docs/reliability.md, names what holds it, and that exists."""

import re

import pytest

from ed2.settings.files import PROGRAM_DIR

NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
COMMAND = re.compile(r"`(?:python -m pytest (?:-m soak )?|scripts/)([\w./]+)")


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    text = (PROGRAM_DIR / page).read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert named or page != "SECURITY.md"
    for file, test in named:
        assert (PROGRAM_DIR / file).is_file(), file
        assert not test or f"def {test}(" in (PROGRAM_DIR / file).read_text(encoding="utf-8"), test
    for word in COMMAND.findall(text):
        assert (PROGRAM_DIR / word).exists() or (PROGRAM_DIR / "scripts" / word).exists(), word


def test_every_promise_names_a_test() -> None:
    rows = [line for line in (PROGRAM_DIR / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    promises = rows[1:]
    assert len(promises) >= 15
    assert all(NAMED.search(row.split("|")[2]) for row in promises)
