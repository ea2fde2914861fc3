"""The images of a check as the Dataset tab shows them: what is remarkable about each, filtered, sorted, by the page."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from ed2.app.checks.check import CheckResult
from ed2.app.reporters.image_losses import ImageLoss, ImageLosses
from ed2.data.buckets import Size, cropped_share, needs_enlarging
from ed2.data.duplicates import find_duplicates
from ed2.data.example import Dataset, Example, FindingKind
from ed2.data.image_config import split_tags
from ed2.data.walk import escape_undecodable
from ed2.errors import Problem
from ed2.small_files import parse_object
from ed2.text import first_of

PER_PAGE = 60
MUCH_CROPPED = 0.25
FILTERS: Mapping[str, str] = {
    "uncaptioned": "No caption",
    "named": "Caption from file name",
    "long": "Caption too long",
    "small": "Small, upscaled",
    "cropped": "Cropped by over 25 %",
    "copies": "Exact duplicates",
    "alike": "Near duplicates",
    "lone": "Alone in its bucket",
    "unusable": "Unusable",
    "unlearned": "Not learned yet",
    "memorised": "Memorised",
}
"""The marks of images, and how they are called."""
BY_PROGRESS = ("unlearned", "memorised")
"""Marks that a run gives, from the loss of each image."""
GROUPED = ("copies", "alike")
"""Marks whose images are shown group by group."""
SORTS = ("Name", "Smallest first", "Largest first", "Highest loss first", "Lowest loss first")
BY_LOSS = SORTS[3:]
"""Those that need a run that measured the images."""
_MARK_OF_NOTE: Mapping[FindingKind, str] = {"no caption": "uncaptioned", "file name": "named"}
MAX_SEARCH = 1000
MAX_NAMES = 3


@dataclass(frozen=True)
class Query:
    """Which images are shown, and how.

    Attributes:
        marks: what all of them have.
        tag: that all of them have; empty for any.
        search: a text in all of their names or captions, in any case.
        sort: one of `SORTS`.
        page: of the grid, from 1 on.
    """

    marks: frozenset[str] = frozenset()
    tag: str = ""
    search: str = ""
    sort: str = SORTS[0]
    page: int = 1

    @classmethod
    def of(cls, values: Mapping[str, object], search: object = "", sort: object = "") -> "Query":
        """What a browser asks for, which is not trusted: what is not valid is left out."""
        marks, tag, page = values.get("marks"), values.get("tag"), values.get("page")
        return cls(
            marks=frozenset(mark for mark in FILTERS if isinstance(marks, list) and mark in marks),
            tag=tag if isinstance(tag, str) else "",
            search=str(search or "")[:MAX_SEARCH].strip().casefold(),
            sort=str(sort) if sort in SORTS else SORTS[0],
            page=page if isinstance(page, int) and page > 0 else 1,
        )

    @property
    def is_narrow(self) -> bool:
        """Whether it leaves out any image."""
        return bool(self.marks or self.tag or self.search)


@dataclass(frozen=True)
class Asked:
    """What a browser says with each question: what it shows, and what was typed since the last answer.

    Attributes:
        chosen: the key of the image whose caption is edited.
        typed: texts by key, not saved.
        ticked: numbers of images.
        revision: of the grid that these numbers are from.
        turn: the question's own number, which the answer repeats.
        drafts: number of the last draft that the browser was shown.
    """

    query: Query
    chosen: str = ""
    typed: Mapping[str, str] = field(default_factory=dict)
    ticked: tuple[int, ...] = ()
    revision: str = ""
    turn: int = 0
    drafts: int = 0

    @classmethod
    def of(cls, text: object, search: object = "", sort: object = "") -> "Asked":
        """Read it; what is not valid is left out."""
        try:
            values = parse_object(text) if isinstance(text, str) and text else {}
        except ValueError:
            values = {}
        return cls(
            query=Query.of(values, search, sort),
            chosen=str(values.get("chosen") or ""),
            typed=_texts_in(values.get("typed")),
            ticked=_numbers_in(values.get("ticked")),
            revision=str(values.get("revision") or ""),
            turn=_number_in(values.get("turn")),
            drafts=_number_in(values.get("drafts")),
        )


def _number_in(value: object) -> int:
    return value if isinstance(value, int) else 0


def _texts_in(values: object) -> dict[str, str]:
    if not isinstance(values, dict):
        return {}
    return {key: text for key, text in values.items() if isinstance(text, str)}


def _numbers_in(values: object) -> tuple[int, ...]:
    if not isinstance(values, list):
        return ()
    return tuple(number for number in values if isinstance(number, int))


@dataclass(frozen=True)
class Item:
    """An image of the dataset, or a file that cannot be used.

    Attributes:
        key: its path as text, which a browser can send.
        example: None for a file that cannot be used, whose `problem` says why.
        remarks: sentences about it.
        group: the same number for images that are duplicates of each other; -1 for others.
        loss: what a run measured of it; None for nothing.
    """

    key: str
    path: Path
    name: str
    example: Example | None = None
    problem: Problem | None = None
    marks: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group: int = -1
    loss: ImageLoss | None = None

    @property
    def caption(self) -> str:
        """As it is trained; empty for what cannot be used."""
        if self.example is None:
            return ""
        return self.example.caption

    @property
    def pixels(self) -> int:
        """Width times height, 0 if unknown."""
        if self.example is None:
            return 0
        return self.example.size[0] * self.example.size[1]


@dataclass(frozen=True)
class Shown:
    """A page of the grid: its items by their numbers, and where it is."""

    items: tuple[tuple[int, Item], ...]
    page: int
    pages: int
    numbers: tuple[int, ...] = field(repr=False, default=())
    """The numbers of all items that match, on every page."""


@dataclass(frozen=True)
class Workbench:
    """All images of a check.

    Attributes:
        checked: what the check found.
        items: in the order of the check, then what cannot be used.
        is_compared: whether near duplicates have been looked for.
        revision: the same as long as these are the same files.
        losses: what the newest run on these folders measured of them; None if none did.
    """

    checked: CheckResult
    items: tuple[Item, ...]
    counts: Mapping[str, int]
    is_compared: bool
    revision: str
    losses: ImageLosses | None = None

    @classmethod
    def of(cls, checked: CheckResult, alike: Sequence[Sequence[Example]] | None = None) -> "Workbench":
        """Make it of a check and of the groups of near duplicates; None if they have not been looked for."""
        items = (*_usable(checked, alike or ()), *_unusable(checked.dataset))
        names = "\n".join(item.key for item in items)
        revision = hashlib.sha256(names.encode()).hexdigest()[:16]
        return cls(checked, items, _counts(items), alike is not None, revision)

    def measured(self, losses: ImageLosses | None) -> "Workbench":
        """The same images with what a run measured of them; None for nothing."""
        items = tuple(_with_loss(item, losses) for item in self.items)
        return replace(self, items=items, counts=_counts(items), losses=losses)

    def matching(self, query: Query) -> list[int]:
        """The numbers of the items that a query asks for, in its order."""
        found = [number for number, item in enumerate(self.items) if _is_asked(item, query)]
        if query.sort in BY_LOSS:
            sign = -1 if query.sort == BY_LOSS[0] else 1
            found.sort(key=lambda number: _by_loss(self.items[number], sign))
        elif query.sort != SORTS[0]:
            found.sort(key=lambda number: self.items[number].pixels, reverse=query.sort == SORTS[2])
        if query.marks & set(GROUPED):
            found.sort(key=lambda number: self.items[number].group)
        return found

    def page(self, query: Query) -> Shown:
        """A page of them; the nearest one if there is none of that number."""
        numbers = self.matching(query)
        pages = max(1, -(-len(numbers) // PER_PAGE))
        page = min(query.page, pages)
        on_page = numbers[(page - 1) * PER_PAGE : page * PER_PAGE]
        return Shown(tuple((number, self.items[number]) for number in on_page), page, pages, tuple(numbers))

    def tags(self, query: Query) -> list[tuple[str, int]]:
        """The parts of the captions that a query asks for, with the number of images of each, most frequent first."""
        counts = Counter(chain(*(self.items[number].tags for number in self.matching(query))))
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def find(self, key: object) -> Item | None:
        """The usable image with this key."""
        return self._by_key.get(key) if isinstance(key, str) else None

    @cached_property
    def per_bucket(self) -> Counter[Size]:
        """The number of images in each bucket."""
        return Counter(example.bucket for example in self.checked.dataset.examples)

    @cached_property
    def _by_key(self) -> dict[str, Item]:
        return {item.key: item for item in self.items if item.example}

    def numbered(self, numbers: Iterable[int]) -> list[Item]:
        """The usable images with these numbers, in the order of the check; others are left out."""
        wanted = set(numbers)
        return [item for number, item in enumerate(self.items) if number in wanted and item.example]


def key_of(path: Path) -> str:
    """What a browser calls an image: its path, with bytes that are not text spelled out, since they cannot be sent."""
    return escape_undecodable(str(path))


def _counts(items: Iterable[Item]) -> Counter[str]:
    return Counter(chain(*(item.marks for item in items)))


def _with_loss(item: Item, losses: ImageLosses | None) -> Item:
    loss = losses.of.get(item.example.key) if item.example and losses else None
    if loss is item.loss:
        return item
    marks = item.marks - set(BY_PROGRESS)
    return replace(item, loss=loss, marks=marks | ({loss.progress} if loss and loss.progress else set()))


def _by_loss(item: Item, sign: int) -> tuple[bool, float]:
    """A key to sort by: images that were not measured come last."""
    return item.loss is None, sign * item.loss.last if item.loss else 0.0


def _usable(checked: CheckResult, alike: Sequence[Sequence[Example]]) -> Iterable[Item]:
    dataset, marks = checked.dataset, _marks(checked)
    groups, remarks = dict[str, int](), defaultdict[str, list[str]](list)
    for number, (group, mark, relation) in enumerate(_groups(dataset, alike)):
        for example in group:
            others = [other.name for other in group if other.key != example.key]
            groups.setdefault(example.key, number)
            marks[example.key].add(mark)
            remarks[example.key].append(f"{relation} {first_of(others, MAX_NAMES)}.")
    for note in dataset.notes:
        if note.path is not None and note.kind not in ("duplicate", "sidecar"):
            remarks[f"{note.root}/{note.path}"].append(f"{note.what} {note.fix}".strip())
    for example in dataset.examples:
        yield Item(
            key=key_of(example.path),
            path=example.path,
            name=example.name,
            example=example,
            marks=frozenset(marks[example.key]),
            remarks=tuple(remarks[example.key]),
            tags=tuple(dict.fromkeys(filter(None, split_tags(example.caption)))),
            group=groups.get(example.key, -1),
        )


def _groups(dataset: Dataset, alike: Sequence[Sequence[Example]]) -> Iterable[tuple[Sequence[Example], str, str]]:
    """The images that are the same, then those that are almost, each group with its mark and what relates them."""
    for group in find_duplicates(dataset.examples, len(dataset.roots)):
        yield group.examples, "copies", "The same image as"
    for near in alike:
        if len({example.digest or example.key for example in near}) > 1:  # else they are copies
            yield near, "alike", "Looks like"


def _marks(checked: CheckResult) -> defaultdict[str, set[str]]:
    """The marks of each image, by its key, except those of duplicates."""
    marks: defaultdict[str, set[str]] = defaultdict(set)
    for note in checked.dataset.notes:
        if note.path is not None and note.kind in _MARK_OF_NOTE:
            marks[f"{note.root}/{note.path}"].add(_MARK_OF_NOTE[note.kind])
    for example, _ in checked.captions_too_long.found:
        marks[example.key].add("long")
    per_bucket = Counter(example.bucket for example in checked.dataset.examples)
    for example in checked.dataset.examples:
        found = marks[example.key]
        if needs_enlarging(example.size, example.bucket):
            found.add("small")
        if cropped_share(example.size, example.bucket) > MUCH_CROPPED:
            found.add("cropped")
        if per_bucket[example.bucket] == 1:
            found.add("lone")
    return marks


def _unusable(dataset: Dataset) -> Iterable[Item]:
    for problem in dataset.problems:
        root = dataset.roots[problem.root]
        path = (root if root.is_dir() else root.parent) / (problem.path or "")
        yield Item(key_of(path), path, problem.path or root.name, problem=problem, marks=frozenset(("unusable",)))


def _is_asked(item: Item, query: Query) -> bool:
    if not query.marks <= item.marks or (query.tag and query.tag not in item.tags):
        return False
    return not query.search or query.search in item.name.casefold() or query.search in item.caption.casefold()
