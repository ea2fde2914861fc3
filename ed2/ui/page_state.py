"""What the program remembers of each open page, since what a browser sends back may be old or forged."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import gradio as gr

from ed2.app.images.bulk import BulkPlan
from ed2.app.snapshot import RunSnapshot, Section

MAX_PAGES = 100
"""A page beyond these is forgotten: it is redrawn completely, and its next form is saved completely."""


@dataclass(frozen=True)
class DeletionAsked:
    """What a page has asked whether to delete.

    Attributes:
        run: folder of the run.
        checkpoint: its name; empty for the whole run.
        is_second: whether it was the second question.
    """

    run: str
    checkpoint: str = ""
    is_second: bool = False


@dataclass
class PageState:
    """One page in one browser.

    Attributes:
        form: the settings that it showed or sent last; None before that.
        turn: number of the form that it sent last; forms may arrive in another order.
        seen: what it shows of the run: the revision of each section, the state, and its own choices.
        prompt_file: the file that its prompt table shows; None before it shows any.
        offered_epochs: the finished run for which it offers a later last epoch, and its own.
        listed_run: the run of this program that its list of runs shows, and whether that was active.
        lora_checkpoints: names of the checkpoints that it offers to extract a LoRA from.
        lora_problem: why no LoRA can be extracted from the run that it shows as selected; empty if one can.
        before_fit: the settings that *Make it fit* changed, as they were.
        after_fit: the same settings as it set them.
        bulk_plan: the change of captions that its preview shows.
        bulk_record: name of the record of the last such change.
        before_suggested: the settings that the suggested values replaced, as they were.
        described_run: folder of the run whose page it shows.
        asked: what it has asked whether to delete.
        edited_run: number of the run of the queue that its form shows; 0 for none.
        before_edit: its form before that.
        used_checkpoint: folder of the checkpoint that *Use this step* found; empty if none.
        planned_gb: memory of the GPU that it plans for, as chosen in the Settings tab; 0 is the one in this computer.
    """

    form: Mapping[str, object] | None = None
    turn: int = 0
    seen: Mapping[str, object] = field(default_factory=dict)
    prompt_file: str | None = None
    offered_epochs: tuple[str, int] = ("", 0)
    listed_run: str = ""
    lora_checkpoints: tuple[str, ...] = ()
    lora_problem: str = ""
    before_fit: Mapping[str, object] = field(default_factory=dict)
    after_fit: Mapping[str, object] = field(default_factory=dict)
    bulk_plan: BulkPlan | None = None
    bulk_record: str = ""
    before_suggested: Mapping[str, object] = field(default_factory=dict)
    planned_gb: float = 0
    described_run: str = ""
    asked: DeletionAsked | None = None
    edited_run: int = 0
    before_edit: Mapping[str, object] = field(default_factory=dict)
    used_checkpoint: str = ""

    def is_outdated(self, section: Section, shown: RunSnapshot) -> bool:
        """Whether the page shows an old revision of this section."""
        return not self.seen or self.seen.get(section) != shown.revisions.get(section)

    def shows_other_state(self, shown: RunSnapshot) -> bool:
        """Whether the page shows another state of the run."""
        return self.seen.get("state") != shown.state


class Pages:
    """The open pages, the most recently used last."""

    def __init__(self) -> None:
        self._pages: dict[str, PageState] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> PageState:
        """The page that sent a request."""
        name = request.session_hash or ""
        with self._lock:
            page = self._pages.pop(name, None) or PageState()
            self._pages[name] = page
            while len(self._pages) > MAX_PAGES:
                del self._pages[next(iter(self._pages))]
            return page
