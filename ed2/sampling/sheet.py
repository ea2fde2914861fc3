"""The contact sheet: an image of what a run learned, with a row for each prompt and columns for selected steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ed2.sampling.images import SAMPLES_DIR, read_samples, save_png
from ed2.sampling.lettering import Lettering

SHEET_NAME = "contact_sheet.png"
MAX_COLUMNS = 6
MAX_ROWS = 20
MIN_WIDTH, MAX_WIDTH = 560, 1600
"""Pixels of the whole sheet."""
MIN_CELL, MAX_CELL = 192, 320
"""Pixels of a cell's longer side, if the width allows it."""
TEXT_WIDTH = 200
MARGIN, GAP = 36, 14
HEADER = 34
INK, PAPER, PALE, GREY = (32, 33, 36), (252, 252, 251), (236, 236, 234), (110, 112, 116)

Size = tuple[int, int]
Entry = dict[str, Any]


@dataclass(frozen=True)
class SheetRow:
    """One prompt and its entries in the list of samples, by step."""

    prompt: str
    entries: dict[int, Entry]


@dataclass(frozen=True)
class Layout:
    """Positions in pixels.

    Attributes:
        top: where the first row begins.
    """

    cell: Size
    num_columns: int
    num_rows: int
    top: int

    @property
    def size(self) -> Size:
        """Of the whole sheet."""
        width = 2 * MARGIN + TEXT_WIDTH + self.num_columns * (self.cell[0] + GAP)
        return max(MIN_WIDTH, width), self.top + self.num_rows * (self.cell[1] + GAP) - GAP + MARGIN

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left of a cell."""
        left = MARGIN + TEXT_WIDTH + GAP + column * (self.cell[0] + GAP)
        return left, self.top + row * (self.cell[1] + GAP)


def contact_sheet(run_dir: Path) -> Path | None:
    """Write `samples/contact_sheet.png` of a run's samples at their middle CFG value; None if there are none.

    Raises:
        OSError: it cannot be written.
    """
    rows = _rows(read_samples(run_dir))
    steps = evenly_chosen(sorted(set(chain(*(row.entries for row in rows)))), MAX_COLUMNS)
    tiles: dict[tuple[int, int], Image.Image] = {}
    for index, row in enumerate(rows):
        tiles |= {(index, column): tile for column, tile in _tiles(run_dir, row, steps)}
    if not tiles:
        return None
    layout = _layout(list(tiles.values()), num_columns=len(steps), num_rows=len(rows))
    sheet = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, run_dir.name, _subtitle(rows))
    for column, step in enumerate(steps):
        left, top = layout.corner(0, column)
        text = "before training" if step == 0 else f"step {step}"
        Lettering(17).draw(draw, (left + layout.cell[0] / 2, top - 12), text, INK, anchor="ms")
    for index, row in enumerate(rows):
        _draw_prompt(draw, row.prompt, layout, index)
        for column in range(len(steps)):
            _paste(sheet, tiles.get((index, column)), layout.corner(index, column), layout.cell)
    save_png(sheet, run_dir / SAMPLES_DIR / SHEET_NAME)
    return run_dir / SAMPLES_DIR / SHEET_NAME


def evenly_chosen(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the sorted steps, evenly spaced, always with the first and the last."""
    if len(steps) <= count:
        return list(steps)
    wanted = [steps[0] + (steps[-1] - steps[0]) * i / (count - 1) for i in range(count)]
    chosen: list[int] = []
    for place, step in enumerate(wanted):
        still_needed = count - place - 1  # leave enough steps for the remaining columns
        left = [s for s in steps if not chosen or s > chosen[-1]]
        chosen.append(min(left[: len(left) - still_needed], key=lambda s: abs(s - step)))
    return chosen


def _rows(entries: list[Entry]) -> list[SheetRow]:
    """A row for each prompt, by its position in the file; one that was edited during the run starts a new row."""
    rows: dict[tuple[int, str], SheetRow] = {}
    for entry in sorted(filter(_is_drawn, entries), key=lambda e: (int(e["index"]), int(e["step"]))):
        row = rows.setdefault((int(entry["index"]), str(entry["prompt"])), SheetRow(str(entry["prompt"]), {}))
        row.entries[int(entry["step"])] = entry
    return list(rows.values())[:MAX_ROWS]


def _is_drawn(entry: Entry) -> bool:
    """Whether an entry names its image and CFG values; a run's folder may come from someone else."""
    match entry:
        case {"path": str(), "cfgs": [_, *_] as cfgs}:
            return all(isinstance(cfg, float | int) for cfg in cfgs)
    return False


def _tiles(run_dir: Path, row: SheetRow, steps: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The row's images at the middle CFG value, with their columns, without missing or damaged ones."""
    for column, step in enumerate(steps):
        if step not in row.entries:
            continue
        try:
            path = (run_dir / row.entries[step]["path"]).resolve()
            if path.is_relative_to(run_dir.resolve()):
                with Image.open(path) as image:
                    yield column, image.convert("RGB")
        except (OSError, ValueError, TypeError, LookupError, Image.DecompressionBombError):
            continue


def _layout(tiles: Sequence[Image.Image], *, num_columns: int, num_rows: int) -> Layout:
    width = max(tile.width for tile in tiles)
    height = max(tile.height for tile in tiles)
    room = (MAX_WIDTH - 2 * MARGIN - TEXT_WIDTH) // num_columns - GAP
    longer = min(max(MIN_CELL, min(MAX_CELL, max(width, height))), int(room * max(1.0, height / width)))
    scale = longer / max(width, height)
    return Layout((round(width * scale), round(height * scale)), num_columns, num_rows, top=MARGIN + 62 + HEADER)


def _draw_title(draw: ImageDraw.ImageDraw, title: str, subtitle: str) -> None:
    Lettering(26).draw(draw, (MARGIN, MARGIN), title[:100], INK)
    Lettering(15).draw(draw, (MARGIN, MARGIN + 36), subtitle, GREY)


def _subtitle(rows: Sequence[SheetRow]) -> str:
    entries = chain(*(row.entries.values() for row in rows))
    cfgs = {f"{entry['cfgs'][len(entry['cfgs']) // 2]:g}" for entry in entries}
    return f"One row per prompt, always from the same noise. CFG {', '.join(sorted(cfgs))}."


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: str, layout: Layout, row: int) -> None:
    """Draw the prompt left of its row, vertically centred, in as many lines as fit."""
    font = Lettering(16)
    max_lines = max(1, layout.cell[1] // 22)
    lines = wrapped(prompt, font, TEXT_WIDTH)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][:-1].rstrip() + "…"]
    middle = layout.corner(row, 0)[1] + layout.cell[1] / 2
    for number, line in enumerate(lines):
        font.draw(draw, (MARGIN, middle + 22 * (number - (len(lines) - 1) / 2)), line, INK, anchor="lm")


def wrapped(text: str, font: Lettering, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; longer words are cut."""
    lines = [""]
    for word in text.split():
        if font.length(f"{lines[-1]} {word}".strip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        lines.append("")
        for letter in word:
            if font.length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _paste(sheet: Image.Image, tile: Image.Image | None, corner: tuple[int, int], cell: Size) -> None:
    """Paste a tile into the middle of a cell, scaled to fit; a missing one becomes a pale field."""
    if tile is None:
        sheet.paste(PALE, (*corner, corner[0] + cell[0], corner[1] + cell[1]))
        return
    scale = min(cell[0] / tile.width, cell[1] / tile.height)
    size = max(1, round(tile.width * scale)), max(1, round(tile.height * scale))
    left, top = corner[0] + (cell[0] - size[0]) // 2, corner[1] + (cell[1] - size[1]) // 2
    edge = (left - 1, top - 1, left + size[0] + 1, top + size[1] + 1)
    sheet.paste(PALE, edge)  # a white image needs an edge on white paper
    sheet.paste(tile.resize(size, Image.Resampling.LANCZOS), (left, top))
