"""The HTML of the dataset workbench: filter chips, the grid, the details of an image, tags, previews, buckets."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ed2.app.images.bulk import BulkPlan, CaptionChange
from ed2.app.page.workbench import BY_LOSS, FILTERS, Asked, Item, Shown, Workbench
from ed2.data.buckets import Size, cropped_share
from ed2.models.files.tokens import MAX_TOKENS
from ed2.text import counted, first_of
from ed2.ui.html import escape, list_html, note_html

MAX_TAGS = 300
MAX_PREVIEWED = 5000
MAX_UNSAVED = 5
BADGES: Mapping[str, str] = {
    "uncaptioned": "no caption",
    "long": "too long",
    "small": "small",
    "cropped": "cropped",
    "copies": "copy",
    "alike": "near duplicate",
    "unusable": "unusable",
    "unlearned": "not learned yet",
    "memorised": "memorised",
}
"""Marks that a tile shows, with the few words that fit on it."""
NO_MATCH = "No image matches any more. Press Show all to remove the filters."
NO_LOSSES = "No run in your folder of runs has measured these images. Set “Loss per image, interval (epochs)” first."
BAR_HEIGHT, BARS_START, WIDEST_BAR = 26, 24, 58
"""Pixels, and percent of the width."""


@dataclass(frozen=True)
class TileView:
    """What a tile shows besides its item.

    Attributes:
        thumb, large: addresses of the copies; empty if there is none.
        text: what the caption box holds once it is chosen.
        draft: what it is in a word or two if that is not saved.
        words: which sidecar says what.
    """

    thumb: str
    large: str
    text: str
    draft: str
    words: Sequence[str]


def chips_html(bench: Workbench, asked: Asked) -> str:
    """The filters with their counts; one without images is left out unless it is pressed."""
    chips = []
    for mark, name in FILTERS.items():
        count = bench.counts.get(mark, 0)
        if mark == "alike" and not bench.is_compared:
            chips.append(f'<span class="ed-chip ed-pending">{name} …</span>')
        elif count or mark in asked.query.marks:
            chips.append(_chip(f"data-mark={mark}", f"{name} <b>{count:,}</b>", mark in asked.query.marks))
    if asked.query.tag:
        chips.append(_chip('data-tag=""', f"Tag: {escape(asked.query.tag)} <b>×</b>", is_pressed=True))
    if asked.query.is_narrow:
        chips.append('<button type="button" class="ed-chip ed-plain" data-clear>Show all</button>')
    return f'<div class="ed-chips" role="group" aria-label="Filters">{"".join(chips)}</div>'


def _chip(data: str, content: str, is_pressed: bool) -> str:
    pressed = str(is_pressed).lower()
    return f'<button type="button" class="ed-chip" aria-pressed="{pressed}" {data}>{content}</button>'


def grid_html(bench: Workbench, shown: Shown, asked: Asked, view: Callable[[Item], TileView], num_drafts: int) -> str:
    """A page of the grid, with what the browser needs to choose an image without asking.

    `num_drafts` is the number of the last draft that it shows.
    """
    tiles = "".join(_tile(number, item, view(item), bench) for number, item in shown.items)
    body = f'<ul class="ed-tiles" aria-label="Images">{tiles}</ul>' if tiles else note_html(NO_MATCH)
    numbers = json.dumps([number for number in shown.numbers if bench.items[number].example])
    data = f'data-revision="{bench.revision}" data-turn="{asked.turn}" data-page="{shown.page}"'
    data += f' data-drafts="{num_drafts}"'
    data += f' data-answer="{time.monotonic_ns()}" data-pages="{shown.pages}" data-numbers="{numbers}"'
    if asked.query.sort in BY_LOSS and bench.losses is None:
        body = note_html(NO_LOSSES) + body
    return f'<div class="ed-workbench" {data}>{_bar(bench, shown)}{body}</div>'


def _bar(bench: Workbench, shown: Shown) -> str:
    count = counted(len(shown.numbers), "image")
    if len(shown.numbers) < len(bench.items):
        count = f"{len(shown.numbers):,} of {counted(len(bench.items), 'image')}"
    pager = ""
    if shown.pages > 1:
        back = _turn(shown.page - 1, shown.pages, "Previous page", "‹")
        forth = _turn(shown.page + 1, shown.pages, "Next page", "›")
        pager = f'<span class="ed-pager">{back}<span>Page {shown.page} of {shown.pages}</span>{forth}</span>'
    hidden = "" if shown.numbers else " hidden"
    ticks = (
        f'<button type="button" data-tick="all"{hidden}>Select all {len(shown.numbers):,}</button>'
        '<button type="button" data-tick="none" hidden>Clear selection</button>'
    )
    return f'<div class="ed-grid-bar"><strong role="status">{count}</strong>{ticks}{pager}</div>'


def _turn(page: int, pages: int, name: str, sign: str) -> str:
    disabled = "" if 1 <= page <= pages else " disabled"
    return f'<button type="button" data-page="{page}" aria-label="{name}"{disabled}>{sign}</button>'


def _tile(number: int, item: Item, view: TileView, bench: Workbench) -> str:
    name = escape(item.name)
    badges = "".join(f'<b data-mark="{mark}">{text}</b>' for mark, text in BADGES.items() if mark in item.marks)
    if view.draft:
        badges += f'<b data-mark="unsaved">{view.draft}</b>'
    picture = f'<img src="{view.thumb}" alt="" loading="lazy">' if view.thumb else '<span class="ed-no-image">?</span>'
    caption = escape(view.text or item.caption or "no caption")
    tick = ""
    if item.example:
        tick = f'<input type="checkbox" tabindex="-1" aria-label="Select {name}">'
    return (
        f'<li data-image="{escape(item.key)}" data-number="{number}" data-text="{escape(view.text)}" '
        f'data-details="{escape(_details(item, view, bench))}">'
        f'<button type="button" tabindex="-1" aria-pressed="false" aria-label="{name}: {caption}">{picture}'
        f'<span class="ed-badges">{badges}</span><span class="ed-tile-text">{caption}</span></button>{tick}'
        "</li>"
    )


def _details(item: Item, view: TileView, bench: Workbench) -> str:
    """The chosen image: large with its crop, its bucket, what is lost, and what the files beside it say."""
    name, example = escape(item.name), item.example
    if example is None:
        problem = item.problem
        text = f"{problem.what} {problem.fix}" if problem else ""
        return f'<p><strong>{name}</strong></p><p class="ed-warn">Not used: {escape(text.strip())}</p>'
    (width, height), (left, top, right, bottom) = example.size, example.crop
    frame = f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%;"
    frame += f"width:{100 * (right - left) / width:.3f}%;height:{100 * (bottom - top) / height:.3f}%"
    bucket = f"{example.bucket[0]} x {example.bucket[1]}"
    picture = ""
    if view.large:
        picture = (
            f'<figure class="ed-frame" style="--ratio:{width / height:.4f}">'
            f'<img src="{view.large}" alt="{name}, cropped to {bucket}"><i style="{frame}"></i></figure>'
        )
    in_bucket = bench.per_bucket[example.bucket]
    facts = [f"{width} x {height} → bucket {bucket} ({counted(in_bucket, 'image')})"]
    facts += [_lost(example.size, example.bucket), *view.words, *_measured(item, bench)]
    sentences = [escape(remark[:1].upper() + remark[1:]) for remark in item.remarks]
    remarks = list_html(sentences, "ed-remarks") if sentences else ""
    lines = " · ".join(escape(fact) for fact in facts)
    return f'{picture}<p class="ed-facts"><strong>{name}</strong><br>{lines}</p>{remarks}'


def _measured(item: Item, bench: Workbench) -> list[str]:
    """What a run measured of an image, in a sentence."""
    loss, losses = item.loss, bench.losses
    if loss is None or losses is None:
        return []
    verdict = f": {BADGES[loss.progress]}" if loss.progress else ""
    times = counted(loss.count, "measurement")
    text = f"loss {loss.last:.4f} at step {losses.step:,}, {loss.first:.4f} at first, mean {loss.mean:.4f} of {times}"
    return [f"{text}{verdict} ({losses.run})"]


def _lost(size: Size, bucket: Size) -> str:
    share = cropped_share(size, bucket)
    if share < 0.001:
        return "nothing is cropped"
    where = "left and right" if size[0] * bucket[1] > size[1] * bucket[0] else "at the top and bottom"
    return f"{100 * share:.1f} % of it is cropped, {where}"


def tokens_html(count: int, limit: int) -> str:
    """How many tokens a caption has; red beyond the limit."""
    text = f"{count} of {limit} tokens"
    if limit > MAX_TOKENS:
        text += f" ({MAX_TOKENS} per chunk)"
    if count <= limit:
        return f'<p class="ed-tokens" role="status">{text}</p>'
    return f'<p class="ed-tokens ed-too-long" role="status">{text}: the last {count - limit} are ignored</p>'


def unsaved_html(names: Sequence[str], *, has_saved_change: bool) -> str:
    """Which images have a caption that is not saved, announced by screen readers; and what can be undone."""
    text = ""
    if names:
        text = f"Unsaved captions: {escape(first_of(names, MAX_UNSAVED))}. They are kept until the program exits."
    can = f'data-can-save="{str(bool(names)).lower()}" data-saved-change="{str(has_saved_change).lower()}"'
    return f'<p class="ed-note" role="status" {can}>{text}</p>'


def tags_html(tags: Sequence[tuple[str, int]], pressed: str) -> str:
    """The parts of the captions with the number of images of each; a press filters."""
    if not tags:
        return note_html("No captions.")
    rows = []
    for tag, count in tags[:MAX_TAGS]:
        is_pressed = str(tag == pressed).lower()
        name = escape(tag)
        rows.append(
            f'<tr><td><button type="button" data-tag="{name}" aria-pressed="{is_pressed}">{name}</button></td>'
            f"<td>{count:,}</td></tr>"
        )
    more = note_html(f"and {len(tags) - MAX_TAGS:,} rarer ones") if len(tags) > MAX_TAGS else ""
    head = "<thead><tr><th>Part of the caption</th><th>Images</th></tr></thead>"
    return f'<div class="ed-tags" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>{more}'


def preview_html(plan: BulkPlan) -> str:
    """Every caption before and after a change."""
    skipped = note_html(f"Left out: {' '.join(plan.skipped[:MAX_UNSAVED])}") if plan.skipped else ""
    if not plan.changes:
        return note_html("No caption would change.") + skipped
    rows = [_changed(change) for change in plan.changes[:MAX_PREVIEWED]]
    more = len(plan.changes) - MAX_PREVIEWED
    if more > 0:
        rows.append(f"and {more:,} more in the same way")
    count = counted(len(plan.changes), "caption")
    return f"<p><strong>{count} would change:</strong></p>{list_html(rows, 'ed-changes', 'tabindex=0')}{skipped}"


def _changed(change: CaptionChange) -> str:
    """Mark what differs: captions often share their beginning and end."""
    old, new = change.old, change.new
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    before, after = escape(new[:start]), escape(new[len(new) - end :])
    removed, added = escape(old[start : len(old) - end]), escape(new[start : len(new) - end])
    marked = (f"<del>{removed}</del>" if removed else "") + (f"<ins>{added}</ins>" if added else "")
    return f"<small>{escape(change.name)}</small> {before}{marked}{after}"


def buckets_html(buckets: Sequence[tuple[Size, int]]) -> str:
    """The images per bucket as a bar chart, from the tallest to the widest size."""
    if not buckets:
        return ""
    most = max(count for _, count in buckets)
    rows = []
    for row, (size, count) in enumerate(sorted(buckets, key=lambda pair: pair[0][0] / pair[0][1])):
        y, share = row * BAR_HEIGHT, WIDEST_BAR * count / most
        rows.append(
            f'<text x="0" y="{y + 17}">{size[0]} x {size[1]}</text>'
            f'<rect x="{BARS_START}%" y="{y + 4}" width="{max(share, 0.3):.2f}%" height="{BAR_HEIGHT - 8}" rx="3"/>'
            f'<text x="{BARS_START + share:.2f}%" dx="8" y="{y + 17}">{count:,}</text>'
        )
    label = "; ".join(f"{w} x {h}: {counted(count, 'image')}" for (w, h), count in buckets)
    head = f'class="ed-buckets" width="100%" height="{len(rows) * BAR_HEIGHT}" role="img" aria-label="{label}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>{"".join(rows)}</svg>'
