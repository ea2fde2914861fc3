"""Images that are in a dataset more than once, found by the content of their files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ed2.data.example import Example, Finding
from ed2.text import counted, first_of, plural

MAX_PATHS = 20
"""How many files of a group a note names; the rest are counted."""
_FIX = "To train an image more often, use multiply instead; otherwise delete the copies."


@dataclass(frozen=True)
class DuplicateGroup:
    """Different files, or one file reached in different ways, with the same content."""

    examples: tuple[Example, ...]
    paths: tuple[str, ...]

    def finding(self) -> Finding:
        """Return a note that names the files."""
        first = self.examples[0]
        what = f"the same image is in the set {len(self.paths):,} times: {first_of(self.paths, MAX_PATHS)}."
        return Finding(first.name, what, _FIX, kind="duplicate", root=first.root)


def find_duplicates(examples: Iterable[Example], num_roots: int) -> list[DuplicateGroup]:
    """Return the images that several files have in common, among those that were read in full.

    Several entries of a manifest for one image are meant to be.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        if example.digest and example.multiply > 0:
            groups.setdefault(example.digest, []).append(example)
    found = []
    for same in groups.values():
        distinct = {(example.root, example.name): example for example in same}.values()
        if len(distinct) > 1:
            paths = tuple(example.name for example in distinct)
            if num_roots > 1:
                paths = tuple(str(example.path) for example in distinct)
            found.append(DuplicateGroup(tuple(distinct), paths))
    return found


def summary(groups: Sequence[DuplicateGroup]) -> Finding:
    """Return a note about all groups, with counts."""
    count, num_files = len(groups), sum(len(group.paths) for group in groups)
    what = f"{counted(count, 'image')} {plural(count, 'is', 'are')} in the set more than once, as {num_files:,} files."
    return Finding(None, what, _FIX, kind="duplicates")


def trained_too(validated: Sequence[Example], trained: Iterable[Example]) -> list[Example]:
    """Return the images of a validation that are also trained on, by content."""
    digests = {example.digest for example in trained if example.multiply > 0}
    return [example for example in validated if example.digest and example.digest in digests]
