"""What the Dataset tab works on: the last check, captions that are typed and not saved, and changes that are."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ed2.app.checks.check import CheckResult, check_dataset
from ed2.app.images.bulk import BulkEdit, BulkPlan, plan_bulk_edit
from ed2.app.images.captions import MAX_CHARACTERS, CaptionReader, OwnCaption
from ed2.app.images.edits import Edits, FileChange
from ed2.app.images.likeness import NearDuplicates
from ed2.app.images.scanning import fingerprints_file, scan_dataset
from ed2.app.images.sidecar_words import folders_of, weight_change
from ed2.app.page.workbench import Asked, Item, Workbench
from ed2.app.reporters.image_losses import ImageLosses
from ed2.data.example import Example
from ed2.errors import Ed2Error, StopRequested
from ed2.settings.schema import Settings
from ed2.text import counted, plural

Progress = Callable[[int, int], None]
NO_CHECK = "Press Check first."
UNSAVED = "Save or undo them first."


class Draft(NamedTuple):
    """A caption that is not saved, and its number: a later draft has a higher one."""

    text: str
    number: int


class DatasetDesk:
    """One for the program, however many browsers are open.

    Attributes:
        bench: the images of the last check; None before it, and after one that found none.
        edits: the changes that were saved.
        num_drafts: the number of the last draft.
    """

    def __init__(self, edits: Edits, allow: Callable[[Path], bool] = lambda path: True) -> None:
        """Keep changes in `edits`; only images that `allow` accepts can be edited."""
        self.edits, self._allow = edits, allow
        self.bench: Workbench | None = None
        self._drafts: dict[str, Draft] = {}
        self._proposed: dict[str, str] = {}
        self._near = NearDuplicates()
        self._alike: Sequence[Sequence[Example]] | None = None
        self._settings: Settings | None = None
        self._undoable: tuple[object, bool] | None = None
        self._round = self._num_edits = self._num_seen = self.num_drafts = 0
        self._lock = threading.RLock()

    @property
    def checked(self) -> CheckResult | None:
        """What the last check found."""
        return self.bench.checked if self.bench else None

    @property
    def roots(self) -> Sequence[Path]:
        """The folders that hold the images."""
        if self.bench is None:
            return ()
        return [root if root.is_dir() else root.parent for root in self.bench.checked.dataset.roots]

    def look(self, settings: Settings, progress: Progress | None = None) -> None:
        """The first answer of a check: names, captions, and sizes by what the headers of new images say.

        Raises:
            Ed2Error: there are no images, or a setting is wrong; then there is nothing to show.
        """
        with self._lock:
            self._round += 1
            self._settings, self._alike = settings, None
            round_ = self._round
        try:
            found = self._scan(settings, headers_only=True, progress=progress)
        except Ed2Error:
            self.bench = None
            raise
        self._take(found, round_)

    def read_all(self, progress: Progress) -> bool:
        """Read every new image in full; false if another check began meanwhile."""
        return self._go_on(lambda settings, round_: self._read_in_full(settings, round_, progress))

    def compare(self, progress: Progress) -> bool:
        """Look for near duplicates; false if another check began meanwhile."""
        return self._go_on(lambda settings, round_: self._compare(round_, progress))

    def close(self) -> None:
        """Have a check that is in progress end."""
        self._round += 1

    def _go_on(self, work: Callable[[Settings, int], None]) -> bool:
        settings, round_ = self._settings, self._round
        if settings is None or self.bench is None:
            return False
        try:
            work(settings, round_)
        except StopRequested:
            return False
        return True

    def _read_in_full(self, settings: Settings, round_: int, progress: Progress) -> None:
        while self.bench and self.bench.checked.dataset.num_unread:
            edits = self._num_edits
            found = self._scan(settings, progress=progress, should_stop=lambda: self._round != round_)
            if edits == self._num_edits:  # else the captions may be older than those that were saved meanwhile
                self._take(found, round_)

    def _compare(self, round_: int, progress: Progress) -> None:
        def report(done: int, total: int) -> None:
            if self._round != round_:
                raise StopRequested(save=False)
            progress(done, total)

        bench = self.bench
        if bench is None:
            return
        alike = self._near.find(bench.checked.dataset.examples, fingerprints_file(), report)
        with self._lock:
            if self._round == round_ and self.bench:
                self._alike = alike
                self.bench = self._workbench(self.bench.checked)

    def _scan(self, settings: Settings, headers_only: bool = False, **callbacks: Any) -> CheckResult:
        dataset = scan_dataset(settings, headers_only=headers_only, **callbacks)
        return check_dataset(settings, dataset)

    def _take(self, found: CheckResult, round_: int) -> None:
        with self._lock:
            if self._round == round_:
                self.bench = self._workbench(found)

    def _workbench(self, checked: CheckResult) -> Workbench:
        """The images of a check, with what a run measured of them as it is known so far."""
        before, bench = self.bench, Workbench.of(checked, self._alike)
        if before and before.losses and before.checked.dataset.roots == checked.dataset.roots:
            return bench.measured(before.losses)
        return bench

    def take_losses(self, losses: ImageLosses | None) -> None:
        """Sort and filter by what a run measured of these images from now on; by nothing if none did."""
        with self._lock:
            if self.bench and self.bench.losses is not losses:
                self.bench = self.bench.measured(losses)

    def refresh(self) -> None:
        """Read the folder again after a change; images that were not read before are not read now.

        Raises:
            Ed2Error: no image is left to train on.
        """
        if self._settings and self._num_edits != self._num_seen:
            seen = self._num_edits
            self._take(self._scan(self._settings, headers_only=True), self._round)
            self._num_seen = seen

    def keep(self, typed: Mapping[str, str]) -> None:
        """Remember captions that were typed, by key; one that is like the saved one is none."""
        if not typed or self.bench is None:
            return
        reader = CaptionReader(self.bench.checked.dataset.roots)
        for key, text in typed.items():
            if (item := self.bench.find(key)) and item.example:
                if text.split() == reader.read(item.example).text.split():
                    self._drafts.pop(key, None)
                else:
                    self._draft(key, text[: MAX_CHARACTERS + 1])  # still too long to be saved

    def _draft(self, key: str, text: str) -> None:
        known = self._drafts.get(key)
        if known is None or known.text != text:
            self.num_drafts += 1
            self._drafts[key] = Draft(text, self.num_drafts)

    @property
    def unsaved(self) -> list[Item]:
        """The images of this dataset whose typed caption is not saved."""
        if self.bench is None:
            return []
        return list(filter(None, map(self.bench.find, list(self._drafts))))

    def unsaved_in(self, folders: object) -> list[Item]:
        """The same, if these absolute folders are those that were checked."""
        if self.checked is None or list(self.checked.settings.data.data_root) != folders:
            return []
        return self.unsaved

    def unsaved_when_asked(self, asked: Asked) -> list[Item]:
        """Those of a browser's question: what it typed itself, and the drafts that it was shown.

        A draft that was typed after the question may arrive before it.
        """
        known = []
        for item in self.unsaved:
            draft = self._drafts.get(item.key)
            if item.key in asked.typed or (draft and draft.number <= asked.drafts):
                known.append(item)
        return known

    def text_of(self, item: Item, reader: CaptionReader) -> str:
        """What the box shows for an image: what was typed, or the text in its file."""
        if item.example is None:
            return ""
        if item.key in self._drafts:
            return self._drafts[item.key].text
        return reader.read(item.example).text

    def is_unsaved(self, item: Item) -> bool:
        """Whether a typed caption of this image is not saved."""
        return item.key in self._drafts

    def discard(self, key: str) -> bool:
        """Forget what was typed for an image; false if it was saved."""
        self._proposed.pop(key, None)
        return self._drafts.pop(key, None) is not None

    def to_caption(self, numbers: Iterable[int], *, replaces: bool) -> list[Item]:
        """The images of these that get an automatic caption.

        Not those with a draft or a caption that cannot be edited here, nor, unless it `replaces` them, with a caption.
        """
        if self.bench is None:
            raise Ed2Error("There are no images", NO_CHECK)
        free = []
        for item, own in self._own_captions(self.bench.numbered(numbers)):
            if not own.locked and not self.is_unsaved(item) and (replaces or not own.is_written):
                free.append(item)
        return free

    def propose(self, item: Item, text: str) -> bool:
        """Make a caption the draft of an image; false if something was typed for it meanwhile."""
        if self.is_unsaved(item):
            return False
        self._proposed[item.key] = text
        self._draft(item.key, text)
        return True

    @property
    def proposed(self) -> list[Item]:
        """The images of this dataset whose draft began as an automatic caption."""
        return [item for item in self.unsaved if item.key in self._proposed]

    def is_proposed(self, item: Item) -> bool:
        """Whether the draft of an image is an automatic caption as it was made."""
        draft = self._drafts.get(item.key)
        return draft is not None and self._proposed.get(item.key) == draft.text

    def discard_proposed(self) -> str:
        """Forget every automatic caption that nobody has edited; returns what was done."""
        items = [item for item in self.proposed if self.is_proposed(item)]
        for item in items:
            self.discard(item.key)
        return f"Discarded {counted(len(items), 'automatic caption')}."

    def save(self, items: Sequence[Item]) -> str:
        """Save the drafts of these images, or none; returns what was done.

        Raises:
            Ed2Error: there is none, or one cannot be saved.
        """
        if not items:
            raise Ed2Error("There is nothing to save", "no caption was changed.")
        drafts = {item.key: self._drafts[item.key] for item in items}
        changes: dict[Path, FileChange] = {}
        for item, own in self._own_captions(items):
            changes[own.file] = own.changed_to(drafts[item.key].text)
        what = counted(len(items), "caption")
        if len(items) == 1:
            what = f"the caption of {items[0].name}"
        self._write(what, list(changes.values()))
        for key, draft in drafts.items():
            if self._drafts.get(key) == draft:
                self.discard(key)
        return f"Saved {what}."

    def undo(self, chosen: str) -> str:
        """Undo what was typed for the chosen image, or else the last change that was saved; returns what was done.

        Raises:
            Ed2Error: the change cannot be undone.
        """
        what = "The automatic caption" if chosen in self._proposed else "What was typed"
        if self.discard(chosen):
            return f"{what} is discarded; the saved caption is shown."
        what = self.edits.undo(self.roots)
        if not what:
            return "There is nothing to undo."
        self._num_edits += 1
        return f"Undone: {what}."

    @property
    def has_saved_change(self) -> bool:
        """Whether a saved change can be undone; asked at each key, so the records are read once for each change."""
        asked = (self._num_edits, tuple(self.roots))
        if self._undoable is None or self._undoable[0] != asked:
            self._undoable = asked, bool(self.edits.last(self.roots))
        return self._undoable[1]

    def plan(self, numbers: Iterable[int], edit: BulkEdit) -> BulkPlan:
        """What an edit would do to the captions of these images.

        Raises:
            Ed2Error: there is nothing to do, or captions are not saved.
        """
        if self.bench is None:
            raise Ed2Error("There are no images", NO_CHECK)
        items = self.bench.numbered(numbers)
        typed = [item.name for item in items if self.is_unsaved(item)]
        if typed:
            why = f"{counted(len(typed), 'caption')} of these images {plural(len(typed), 'is', 'are')} not saved."
            raise Ed2Error("No preview", why, UNSAVED)
        return plan_bulk_edit([(item.name, own) for item, own in self._own_captions(items)], edit)

    def apply(self, plan: BulkPlan) -> str:
        """Make the changes of a plan, or none; returns the name of their record. Raises Ed2Error."""
        return self._write(plan.what, plan.files)

    def folders(self) -> list[tuple[Path, str, int, float]]:
        """The folders with images: path, name, number of images, `multiply`."""
        if self.bench is None:
            return []
        return folders_of(self.bench.checked.dataset.examples, self.bench.checked.dataset.roots)

    def set_weight(self, folder: Path, weight: float | None) -> str:
        """Write the `multiply` of a folder of this dataset, None for no file of its own; returns what was done.

        Raises:
            Ed2Error: it cannot be set.
        """
        name = next((name for path, name, *_ in self.folders() if path == folder), None)
        if name is None:
            raise Ed2Error("The weight was not set", "this folder holds no images of the dataset.", "Choose another.")
        what = f"multiply {weight:g} for {name}" if weight is not None else f"multiply.txt removed from {name}"
        self._write(what, [weight_change(folder, weight)])
        return f"Saved: {what}."

    def _own_captions(self, items: Iterable[Item]) -> Iterable[tuple[Item, OwnCaption]]:
        reader = CaptionReader(self.bench.checked.dataset.roots if self.bench else ())
        for item in items:
            if item.example and self._allow(item.path):
                yield item, reader.read(item.example)

    def _write(self, what: str, changes: Sequence[FileChange]) -> str:
        if not changes:
            raise Ed2Error("Nothing was changed", "no caption would change.")
        record = self.edits.write(what, changes)
        self._num_edits += 1
        return record
