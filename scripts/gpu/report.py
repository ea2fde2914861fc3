"""The report as a table in markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    ("training", "what", "{}"),
    ("s per step", "step_seconds", "{:.3f}"),
    ("images per s", "images_per_second", "{:.2f}"),
    ("GB planned", "planned_expected_gb", "{:.2f}"),
    ("GB held at most", "peak_held_gb", "{:.2f}"),
    ("save blocks, s", "save_blocks_seconds", "{:.2f}"),
    ("whole save, s", "save_seconds", "{:.1f}"),
    ("one sample, s", "sample_seconds", "{:.2f}"),
    ("", "failed", "failed: {}"),
)


def as_markdown(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> str:
    """The machine, a table of all trainings, and what was left out."""
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += [f"| {' | '.join(title for title, _, _ in COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = [form.format(row[name]) if name in row else "" for _, name, form in COLUMNS]
        lines.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    if left_out:
        lines += ["", "Left out:", "", *(f"- {text}" for text in left_out)]
    return "\n".join(lines) + "\n"
