"""The images of the last check: filters and grid on the left, the chosen image and its caption on the right."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from ed2.app.images.captions import CaptionReader
from ed2.app.images.sidecar_words import SidecarWords
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.workbench import SORTS, Asked, Item, Workbench
from ed2.ui.context import Context
from ed2.ui.grid_html import TileView, chips_html, grid_html, tags_html, tokens_html, unsaved_html
from ed2.ui.wiring import HIDDEN, QUIET, SPOKEN, Updates, refusing

LARGE_SIDE = 1024
CHOSEN = (
    '<div class="ed-steps-of-image"><button type="button" data-step="-1">‹ Previous</button>'
    '<button type="button" data-step="1">Next ›</button></div><div class="ed-selected"></div>'
)
KEYS = (
    "In the caption: Enter for the next image, Ctrl+S to save. In the grid: arrow keys, Enter to edit, Space to select."
)
ASK = "ed.askGrid"


class ImageGrid:
    """The images to look at and to caption; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.asked = gr.Textbox(visible=False)
        self.refreshed: list[Any] = []
        with gr.Column(visible=False) as self.column:
            self.chips = gr.HTML("", elem_id="filter-chips", js_on_load="ed.watchChips(element, trigger)")
            with gr.Row(elem_id="grid-controls"):
                self.search = gr.Textbox(
                    label="Search names and captions", elem_id="grid-search", max_lines=1, min_width=180, scale=3
                )
                self.sort = gr.Dropdown(
                    list(SORTS), value=SORTS[0], label="Sort", elem_id="grid-sort", min_width=140, scale=1
                )
            with gr.Row(elem_id="workbench"):
                with gr.Column(scale=6, min_width=320):
                    self.grid = gr.HTML("", elem_id="dataset-grid", js_on_load="ed.watchGrid(element, trigger)")
                with gr.Column(scale=5, min_width=320, elem_id="caption-column"):
                    js = "ed.watchSelected(element)"
                    self.selected = gr.HTML(CHOSEN, elem_id="selected-image", js_on_load=js)
                    self.caption = gr.Textbox(
                        label="Caption", lines=3, max_lines=6, elem_id="caption-text", interactive=True
                    )
                    self.tokens = gr.HTML("", elem_id="token-count", js_on_load=None)
                    with gr.Row(elem_classes="ed-actions"):
                        self.save = gr.Button("Save captions", elem_id="save-caption-button", min_width=140)
                        self.undo = gr.Button("Undo", elem_id="undo-caption-button", min_width=100)
                    self.unsaved = gr.HTML("", elem_id="caption-unsaved", js_on_load="ed.watchUnsaved(element)")
                    gr.HTML(f'<p class="ed-note ed-keys">{KEYS}</p>', js_on_load=None)
            with gr.Accordion("Tags", open=False, elem_id="tag-fold"):
                self.tags = gr.HTML("", elem_id="tag-table", js_on_load="ed.watchChips(element, trigger)")

    @property
    def inputs(self) -> list[Any]:
        """What each question carries; give its event `js=ASK`."""
        return [self.asked, self.search, self.sort]

    @property
    def outputs(self) -> list[Any]:
        """What `show` changes."""
        return [self.chips, self.grid, self.tags, self.unsaved]

    def wire(self) -> None:
        """Connect filters, tiles, keys, the caption and its buttons."""
        shown = {"js": ASK, "trigger_mode": "always_last", **QUIET}
        events = [self.chips.click, self.tags.click, self.sort.change, self.grid.submit]
        for event in events:
            event(self.show, self.inputs, self.outputs, **shown)
        self.search.change(self.show, self.inputs, self.outputs, **{**shown, "js": "ed.askFirstPage"})
        self.grid.click(None, self.caption, self.caption, js="ed.textOfChosen")
        # not its event `input`, which only keys trigger and pasted text does not (Gradio 6.31)
        self.caption.change(self.keep, [*self.inputs, self.caption], [self.unsaved, self.tokens], **shown)
        self.follow(self.save.click(self.save_captions, self.inputs, self.unsaved, js=ASK, **SPOKEN))
        self.follow(self.undo.click(self.undo_last, self.inputs, self.unsaved, js="ed.askUndo", **SPOKEN))

    def show_after(self, event: Any) -> Any:
        """Show the images once this has ended, as the page then asks for them."""
        return event.then(self.show, self.inputs, self.outputs, js=ASK, trigger_mode="always_last", **QUIET)

    def follow(self, event: Any) -> None:
        """After a change of files show the new captions at once, then read the folder again for counts and filters."""
        shown = self.show_after(event)
        refreshed = shown.then(self.refresh, None, None, concurrency_id="refresh", **HIDDEN)
        self.refreshed.append(refreshed)
        self.show_after(refreshed)

    def refresh(self) -> None:
        """Read the folder again after a change."""
        with refusing():
            self.desk.refresh()

    @property
    def desk(self) -> DatasetDesk:
        """What it works on."""
        return self._context.desk

    def show(self, asked: str, search: str, sort: str) -> Updates:
        """The filters, the page of the grid and the tags that are asked for."""
        question = self.take(asked, search, sort)
        self.desk.take_losses(self._context.image_losses())
        bench = self.desk.bench
        if bench is None:
            return {self.chips: "", self.grid: "", self.tags: "", self.unsaved: self._unsaved()}
        page, num_drafts = bench.page(question.query), self.desk.num_drafts
        return {
            self.chips: chips_html(bench, question),
            self.grid: grid_html(bench, page, question, self._viewer(bench), num_drafts),
            self.tags: tags_html(bench.tags(question.query), question.query.tag),
            self.unsaved: self._unsaved(),
        }

    def take(self, asked: str, search: str, sort: str) -> Asked:
        """Read a question, and keep what was typed since the last one."""
        question = Asked.of(asked, search, sort)
        self.desk.keep(question.typed)
        return question

    def keep(self, asked: str, search: str, sort: str, text: str) -> Updates:
        """Keep what was typed, and count its tokens."""
        self.take(asked, search, sort)
        checked = self.desk.checked
        if checked is None:
            return {self.unsaved: self._unsaved(), self.tokens: ""}
        count = checked.count_tokens([text or ""])[0]
        return {self.unsaved: self._unsaved(), self.tokens: tokens_html(count, checked.token_limit)}

    def save_captions(self, asked: str, search: str, sort: str) -> Updates:
        """Save every caption that was typed before the press, or none."""
        question = self.take(asked, search, sort)
        return self._do(lambda: self.desk.save(self.desk.unsaved_when_asked(question)))

    def undo_last(self, asked: str, search: str, sort: str) -> Updates:
        """Discard what was typed for the chosen image, or else undo the last change that was saved."""
        question = self.take(asked, search, sort)
        return self._do(lambda: self.desk.undo(question.chosen))

    def _do(self, work: Callable[[], str]) -> Updates:
        with refusing():
            gr.Info(work(), duration=6)
        return {self.unsaved: self._unsaved()}

    def _unsaved(self) -> str:
        return unsaved_html([item.name for item in self.desk.unsaved], has_saved_change=self.desk.has_saved_change)

    def _viewer(self, bench: Workbench) -> Callable[[Item], TileView]:
        """What the tiles show; an image outside of what may be opened, to which a link may lead, is not shown."""
        roots = bench.checked.dataset.roots
        reader, words = CaptionReader(roots), SidecarWords(roots)
        copies, allow = self._context.thumbs, self._context.roots.allow

        def view(item: Item) -> TileView:
            if item.example is None or not allow(item.path):
                return TileView("", "", "", "", ())
            text, draft = self.desk.text_of(item, reader), ""
            if self.desk.is_proposed(item):
                draft = "automatic"
            elif self.desk.is_unsaved(item):
                draft = "not saved"
            return TileView(
                thumb=copies.offer(item.path),
                large=copies.offer(item.path, LARGE_SIDE),
                text=text,
                draft=draft,
                words=words.of(item.example),
            )

        return view
