"""The data of the sample matrix that `matrix.js` draws: prompts down, steps or runs across, an image for each CFG."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.snapshot import ShownSample
from ed2.events import Sample
from ed2.text import step_name
from ed2.ui.html import escape
from ed2.ui.image_copies import ImageCopies

MAX_TEXTS = 4
"""An index with more prompts than this, such as one that draws random captions, is one row."""
CHANGING = "Prompt {} changes"
Trained = Callable[[str], tuple[str, str] | None]
"""The address and the name of the training image with a key; None for one that is not shown."""
Row = tuple[int, str]
"""Index and prompt; an empty prompt where it changes all the time."""


@dataclass(frozen=True)
class Column:
    """Samples that stand above each other: of one step, or of one run.

    Attributes:
        step: that *Use this step* is about; None where there is none.
    """

    label: str
    samples: Sequence[Sample]
    step: int | None = None


def columns_of(shown: Sequence[ShownSample]) -> list[Column]:
    """A column for each step, the oldest first."""
    by_step: dict[int, list[Sample]] = {}
    for one in shown:
        by_step.setdefault(one.step, []).append(one.sample)
    return [Column(step_name(step), by_step[step], step) for step in sorted(by_step)]


class Matrix:
    """Samples in rows and columns.

    Args:
        columns: from left to right.
        copies: what the images are copied by when a browser asks for them.
        folders: images outside of these are not shown; a run's folder may come from someone else.
        trained: finds training images, to compare samples with; only a page of the owner may show them.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        copies: ImageCopies,
        folders: Sequence[Path],
        trained: Trained = lambda key: None,
    ) -> None:
        self._columns, self._copies, self._folders, self._trained = columns, copies, folders, trained
        samples = [sample for column in columns for sample in column.samples]
        self._changing = _changing(samples)
        self._rows: dict[Row, Sample] = {}
        for sample in samples:
            known = self._rows.get(self._row_of(sample))
            if known is None or len(sample.cfgs) > len(known.cfgs):
                self._rows[self._row_of(sample)] = sample
        self._places = {row: place for place, row in enumerate(self._rows)}  # a new row never moves an older one

    @property
    def layout(self) -> str:
        """Another text means that columns that a page holds have other rows than these."""
        return " ".join(map(str, sorted(self._changing)))

    def rows_json(self) -> list[dict[str, Any]]:
        """The rows, in the order in which they appeared; they are shown by index."""
        return [self._row_json(row) for row in self._places]

    def columns_json(self, first: int = 0) -> list[dict[str, Any]]:
        """The columns from place `first` on."""
        return [self._column_json(column) for column in self._columns[first:]]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"route": self._copies.route, "rows": self.rows_json(), "columns": self.columns_json()}

    def as_html(self, *, is_owner: bool = False) -> str:
        """An element with its own data: `edMatrix.mountAll()` draws it; the owner may use a step."""
        content = escape(json.dumps({**self.as_json(), "owner": is_owner}, separators=(",", ":")))
        return f'<div class="ed-matrix" data-matrix="{content}"></div>'

    def news(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """What a page has to take over, which says how many columns it `held`; the last of those may have changed."""
        first, columns = 0, held.get("columns")
        if held.get("layout") == self.layout and isinstance(columns, int):
            first = min(max(0, columns - 1), len(self._columns))
        return {
            "route": self._copies.route,
            "layout": self.layout,
            "rows": self.rows_json(),
            "from": first,
            "columns": self.columns_json(first),
        }

    def _row_of(self, sample: Sample) -> Row:
        return sample.index, "" if sample.index in self._changing else sample.prompt

    def _row_json(self, row: Row) -> dict[str, Any]:
        sample = self._rows[row]
        return {
            "index": sample.index,
            "prompt": row[1] or CHANGING.format(sample.index + 1),
            "negative": sample.negative_prompt,
            "seed": sample.seed,
            "size": list(sample.size),
            "cfgs": list(sample.cfgs),
        }

    def _column_json(self, column: Column) -> dict[str, Any]:
        pictures = []
        for sample in column.samples:
            row = self._row_of(sample)
            text = [] if row[1] else [sample.prompt]
            for turn, path in enumerate(sample.paths):
                if self._is_inside(path) and (key := self._copies.enter(path)):
                    pictures.append([self._places[row], turn, key, *text])
        found: dict[str, Any] = {"label": column.label, "pictures": pictures}
        if column.step is not None:
            found["step"] = column.step
        if trained := self._trained_json(column):
            found["trained"] = trained
        return found

    def _trained_json(self, column: Column) -> dict[int, list[str]]:
        """Address and name of the training image of each row that has one."""
        found = {}
        for sample in column.samples:
            if sample.trained and (image := self._trained(sample.trained)):
                found[self._places[self._row_of(sample)]] = list(image)
        return found

    def _is_inside(self, path: Path) -> bool:
        return ".." not in path.parts and any(path.is_relative_to(folder) for folder in self._folders)


def _changing(samples: Sequence[Sample]) -> set[int]:
    texts: dict[int, set[str]] = {}
    for sample in samples:
        texts.setdefault(sample.index, set()).add(sample.prompt)
    return {index for index, different in texts.items() if len(different) > MAX_TEXTS}
