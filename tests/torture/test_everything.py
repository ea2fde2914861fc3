"""scripts/torture all does every long test, and says what becomes of each."""

import sys
from pathlib import Path

from ed2.settings.files import PROGRAM_DIR
from tests.torture.everything import Part, everything, parts


def test_no_long_test_is_left_out() -> None:
    marked = [
        file for file in PROGRAM_DIR.glob("tests/**/test_*.py") if "\n@pytest.mark.soak" in file.read_text("utf-8")
    ]
    named = {PROGRAM_DIR / word for part in parts(1, 1, 0) for word in part.long if word.startswith("tests/")}
    assert set(marked) == named


def test_a_failing_part_does_not_stop_the_others_and_its_output_is_shown(tmp_path: Path) -> None:
    def part(name: str, code: str) -> Part:
        return Part(name, "It tries.", (1, 2), ("-c", code), ("-c", f"open({str(tmp_path / name)!r}, 'w')"))

    told: list[str] = []
    tried = [part("one", "print('nothing of it'); raise SystemExit(3)"), part("two", "print('40 sizes, none lost')")]
    assert everything(tried, told.append, is_short=False) == 1
    assert "2 parts, about 2 minutes" in told[0]
    assert "It ended with 3; the last that it said:\n    nothing of it" in "\n".join(told)
    assert "    40 sizes, none lost" in told
    assert [line.split()[:2] for line in told[-1].splitlines()[1:]] == [["one", "FAILED"], ["two", "as"]]
    assert everything(tried, told.append, is_short=True) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}, sys.executable
