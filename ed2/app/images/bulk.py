"""One change of many captions at once: planned and shown first, then written whole or not at all."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ed2.app.images.captions import OwnCaption
from ed2.app.images.edits import FileChange
from ed2.data.image_config import TAG_SEPARATOR, split_tags
from ed2.errors import Ed2Error
from ed2.text import counted

ADD_FIRST, ADD_LAST, REPLACE, REMOVE = "Add at the front", "Add at the end", "Find and replace", "Remove a tag"
REWRITE = "Replace the caption"


@dataclass(frozen=True)
class BulkEdit:
    """What is done to each caption.

    Attributes:
        kind: one of `KINDS`.
        text: is added, searched for, removed, or the new caption.
        replacement: takes the place of `text` where it is found.
    """

    kind: str
    text: str
    replacement: str = ""

    def of(self, caption: str) -> str:
        """The caption after the edit."""
        return KINDS[self.kind](self, " ".join(caption.split()))

    def __str__(self) -> str:
        """What it did, before "in 40 captions"."""
        quoted = f'"{self.text}"'
        if self.kind == REPLACE:
            return f'{quoted} replaced by "{self.replacement}"'
        verbs = {REMOVE: "removed", REWRITE: "written"}
        return f"{quoted} {verbs.get(self.kind, 'added')}"


@dataclass(frozen=True)
class CaptionChange:
    """One caption before and after."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class BulkPlan:
    """What an edit would do, and the files that it would write.

    Attributes:
        what: was done, for people.
        changes: every caption that changes.
        skipped: why captions that would change cannot be edited.
        files: as they are written; two images may share a caption file.
    """

    what: str
    changes: tuple[CaptionChange, ...]
    skipped: tuple[str, ...]
    files: tuple[FileChange, ...]


def plan_bulk_edit(captions: Iterable[tuple[str, OwnCaption]], edit: BulkEdit) -> BulkPlan:
    """Find out what an edit does to these captions, given with the names of their images.

    Raises:
        Ed2Error: there is no text to add, find, remove or write.
    """
    if not edit.text.strip():
        raise Ed2Error("There is nothing to do", "the text is empty.", "Type a text first.")
    changes, skipped = [], []
    files: dict[str, FileChange] = {}
    for name, caption in captions:
        new = edit.of(caption.text)
        if new == " ".join(caption.text.split()):
            continue
        try:
            change = caption.changed_to(new)
        except Ed2Error as error:
            skipped.append(error.why)
            continue
        files.setdefault(str(caption.file), change)
        changes.append(CaptionChange(name, caption.text, new))
    what = f"{edit} in {counted(len(changes), 'caption')}"
    return BulkPlan(what, tuple(changes), tuple(skipped), tuple(files.values()))


def _add_first(edit: BulkEdit, caption: str) -> str:
    added = edit.text.strip().casefold()
    if f"{caption.casefold()}{TAG_SEPARATOR}".startswith(f"{added}{TAG_SEPARATOR}"):
        return caption
    return _joined(edit.text, caption)


def _add_last(edit: BulkEdit, caption: str) -> str:
    added = edit.text.strip().casefold()
    if f"{TAG_SEPARATOR}{caption.casefold()}".endswith(f"{TAG_SEPARATOR}{added}"):
        return caption
    return _joined(caption, edit.text)


def _replace(edit: BulkEdit, caption: str) -> str:
    if edit.text not in caption:
        return caption
    return _without_gaps(caption.replace(edit.text, edit.replacement))


def _remove(edit: BulkEdit, caption: str) -> str:
    removed, parts = edit.text.strip().casefold(), split_tags(caption)
    kept = [part for part in parts if part.casefold() != removed]
    if kept == parts:
        return caption
    return _without_gaps(TAG_SEPARATOR.join(kept))


def _rewrite(edit: BulkEdit, _: str) -> str:
    return " ".join(edit.text.split())


def _without_gaps(caption: str) -> str:
    return TAG_SEPARATOR.join(filter(None, split_tags(" ".join(caption.split()))))


def _joined(*parts: str) -> str:
    return TAG_SEPARATOR.join(filter(None, (part.strip(" ,") for part in parts)))


KINDS: Mapping[str, Callable[[BulkEdit, str], str]] = {
    ADD_FIRST: _add_first,
    ADD_LAST: _add_last,
    REPLACE: _replace,
    REMOVE: _remove,
    REWRITE: _rewrite,
}
