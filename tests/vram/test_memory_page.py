"""The tables of docs/memory.md, and what they claim."""

import pytest

from ed2.vram.overhead import ON_CARD
from scripts.memory_table import PAGE, ROWS, Published, page_with_tables

OTHER_READING = [row for row in ROWS if "as 'caches' says" in row.assumed]
"""The row is there a second time, with parts on the GPU that the source may have meant."""


def test_the_page_on_memory_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_tables(text) == text, "run python scripts/memory_table.py"
    for part in ("| SD 2.1 | 768 |", "are within 10 %", "| bound |"):
        assert part in text


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.bound and row not in OTHER_READING], ids=lambda r: r.text
)
def test_the_range_reaches_every_published_measurement(row: Published) -> None:
    allocated = (row.planned_gb - ON_CARD.context_gb[1]) / ON_CARD.reserved[1]
    assert row.gb <= ON_CARD.range_of(allocated)[2]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.bound and row.family == "sd1"], ids=lambda r: r.text)
def test_published_full_fine_tunes_of_sd15_are_within_a_tenth(row: Published) -> None:
    assert row.planned_gb == pytest.approx(row.gb, rel=0.1)
