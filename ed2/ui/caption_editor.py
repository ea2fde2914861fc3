"""The images of the last check, a page at a time, and their captions to edit."""

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.images.captions import MAX_CHARACTERS
from ed2.data.example import Example
from ed2.data.walk import escape_undecodable
from ed2.errors import Ed2Error
from ed2.ui.context import Context
from ed2.ui.html import escape, note_html
from ed2.ui.wiring import QUIET, Updates, fill, refusal

PER_PAGE = 24
MAX_NAMED = 5
NOT_CHOSEN = "Press Check and select an image first."
RESTORED = "The previous caption is restored."
NOTHING_SAVED = "There is nothing to undo. The box shows the caption in the file."


class CaptionEditor:
    """The images to edit; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context) -> None:
        self._context, self._drafts = context, CaptionDrafts()
        with gr.Column(visible=False) as self.column:
            with gr.Row():
                self.page = gr.Number(
                    1, label="Page", step=1, precision=0, elem_id="dataset-page", min_width=120, scale=1
                )
                self.image = gr.Dropdown(
                    [], label="Image", elem_id="caption-picture", interactive=True, min_width=240, scale=3
                )
            self.caption = gr.Textbox(label="Caption", lines=2, elem_id="caption-text", interactive=True)
            with gr.Row(elem_classes="ed-actions"):
                self.save = gr.Button("Save caption", elem_id="save-caption-button", min_width=140)
                self.undo = gr.Button("Undo", elem_id="undo-caption-button", min_width=100)
            self.unsaved = gr.HTML("", elem_id="caption-unsaved", js_on_load=None)
            js = "ed.watchImages(element, trigger)"
            self.thumbs = gr.HTML("", elem_id="dataset-pictures", js_on_load=js)

    def wire(self) -> None:
        """Connect the tiles, the page number and what is typed."""
        typed = [self.image, self.caption]
        # not its event `input`, which only keys trigger and pasted text does not (Gradio 6.31)
        self.caption.change(
            self.keep_draft, typed, self.unsaved, js="ed.keepDraft", trigger_mode="always_last", **QUIET
        )
        self.caption.blur(self.keep_draft, typed, self.unsaved, js="ed.keepDraft", trigger_mode="multiple", **QUIET)
        self.image.change(None, typed, self.caption, js="ed.draftOf")
        self.image.change(None, self.image, None, js="ed.markImage")
        self.thumbs.click(None, typed, typed, js="ed.pressedImage")
        self._fill(self.page.change, self.turn_to)

    def show_after(self, event: Any) -> Any:
        """Show the images once this has ended: it may take long, and what is chosen and typed meanwhile stays."""
        shown = self._fill(event.success, self.show_again)
        shown.then(None, [self.image, self.caption], None, js="ed.keepDraft")
        return shown

    def _fill(self, event: Any, answer: Callable[..., Updates]) -> Any:
        edited = [self.page, self.image, self.caption]
        others = [self.thumbs, self.image, self.unsaved]
        return fill(event, answer, edited, edited, others, is_whole=True, **QUIET)

    @property
    def examples(self) -> Sequence[Example]:
        """The images of the last check."""
        checked = self._context.checked
        return checked.dataset.examples if checked else ()

    def turn_to(self, _: gr.Request, page: float | None, path: str | None, text: str | None) -> Updates:
        """Show a page of images; the number becomes that of the nearest page.

        An image that is on it stays chosen, and what was typed for it stays.
        """
        examples = self.examples
        first = self._first_on(page)
        shown = examples[first : first + PER_PAGE]
        number, pages = first // PER_PAGE + 1, max(1, -(-len(examples) // PER_PAGE))
        updates: Updates = {self.unsaved: self._unsaved_html()}
        if number != page:
            updates[self.page] = number
        if not shown:
            return updates | {self.image: gr.update(value=None, choices=[]), self.caption: "", self.thumbs: ""}
        choices = [(f"{first + n + 1}: {example.name}", _key(example)) for n, example in enumerate(shown)]
        tiles = "".join(self._tile(first + n, example) for n, example in enumerate(shown))
        chosen = next((example for example in shown if _key(example) == path), shown[0])
        if _key(chosen) != path or not self._drafts.has(chosen):
            updates[self.caption] = self._drafts.text_of(chosen)
        updates[self.image] = gr.update(value=_key(chosen), choices=choices)
        updates[self.thumbs] = f'{note_html(f"Page {number} of {pages}")}<ul class="ed-grid ed-thumbs">{tiles}</ul>'
        return updates

    def show_again(self, request: gr.Request, page: float | None, path: str | None, text: str | None) -> Updates:
        """Show the page with the chosen image after another check, or the same page if that image is gone."""
        place = next((n for n, example in enumerate(self.examples) if _key(example) == path), None)
        wanted = page if place is None else place // PER_PAGE + 1
        updates = self.turn_to(request, wanted, path, text)
        return updates if wanted == page else {self.page: wanted, **updates}

    def keep_draft(self, path: str | None, text: str) -> str:
        """Remember what was typed, and list the images with unsaved captions."""
        if example := self.find(path):
            self._drafts.keep(example, text)
        return self._unsaved_html()

    def edit(self, path: str | None, text: str, change: Callable[[Path], str]) -> str:
        """Change the caption of an image of the last check.

        Args:
            path: the image.
            text: what the box held.
            change: changes the caption and returns what it did.

        Returns:
            What was done, for people.

        Raises:
            gr.Error: it cannot be changed.
        """
        example = self.find(path)
        if example is None or not self._context.roots.allow(example.path):
            raise refusal(NOT_CHOSEN)
        try:
            done = change(example.path)
        except Ed2Error as error:
            raise refusal(str(error)) from None
        self._drafts.drop(example, text)
        return done

    def save_caption(self, path: str | None, text: str) -> str:
        """Write what was typed beside the image; as `edit`."""

        def save(image: Path) -> str:
            target = self._context.captions.save(image, text)
            return f"Saved to {escape_undecodable(target.name)}. Undo restores the old caption."

        return self.edit(path, text, save)

    def undo_caption(self, path: str | None, text: str) -> str:
        """Restore the caption as it was before the last save; as `edit`."""

        def undo(image: Path) -> str:
            if self._context.captions.undo(image):
                return RESTORED
            return NOTHING_SAVED

        return self.edit(path, text, undo)

    def find(self, path: object) -> Example | None:
        """The image of the last check at this path; another browser may have checked another folder since."""
        return next((example for example in self.examples if _key(example) == path), None)

    def _first_on(self, page: float | None) -> int:
        pages = max(1, -(-len(self.examples) // PER_PAGE))
        return (min(pages, max(1, int(page or 1))) - 1) * PER_PAGE

    def _tile(self, number: int, example: Example) -> str:
        address = self._context.thumbs.address(example.path, example.crop)
        size, bucket = (f"{w} x {h}" for w, h in (example.size, example.bucket))
        name, caption = escape(example.name), escape(example.caption or "no caption")
        text = escape(self._drafts.text_of(example))
        return (
            f'<li data-image="{escape(_key(example))}" data-text="{text}">'
            f'<button type="button" aria-label="Edit {name}" aria-pressed="false">'
            f'<img src="{address}" alt="{name}, cropped to {bucket}" loading="lazy"></button>'
            f'<div class="ed-caption"><p class="ed-text" title="{caption}"><strong>{number + 1}</strong> {caption}</p>'
            f"<small>{name}<br>{size} → {bucket}</small></div></li>"
        )

    def _unsaved_html(self) -> str:
        return self._drafts.as_html(self.examples)


class CaptionDrafts:
    """Captions that were typed and not saved, by path: kept for every page until they are saved."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def keep(self, example: Example, text: str) -> None:
        """Remember what was typed; the caption as it is, is not a draft."""
        with self._lock:
            self._texts.pop(str(example.path), None)
            if _words(text) != _words(example.caption):
                self._texts[str(example.path)] = text[: MAX_CHARACTERS + 1]  # still too long to be saved

    def drop(self, example: Example, text: str) -> None:
        """Forget a draft that was saved or given up; what was typed since stays."""
        with self._lock:
            if self._texts.get(str(example.path)) == text[: MAX_CHARACTERS + 1]:
                del self._texts[str(example.path)]

    def has(self, example: Example) -> bool:
        """Whether the image has a draft."""
        return _words(self.text_of(example)) != _words(example.caption)

    def text_of(self, example: Example) -> str:
        """The draft of an image, or its caption."""
        return self._texts.get(str(example.path), example.caption)

    def as_html(self, examples: Iterable[Example]) -> str:
        """Which of these images have a draft; announced by screen readers."""
        names = [example.name for example in examples if self.has(example)]
        if not names:
            return '<p class="ed-note" role="status"></p>'
        listed = ", ".join(names[:MAX_NAMED])
        if len(names) > MAX_NAMED:
            listed += f" and {len(names) - MAX_NAMED:,} more"
        text = f"Unsaved captions: {escape(listed)}. They are kept until the program exits."
        return f'<p class="ed-note" role="status">{text}</p>'


def _key(example: Example) -> str:
    """What a browser calls an image: its path, with bytes that are not text spelled out, since they cannot be sent."""
    return escape_undecodable(str(example.path))


def _words(text: str) -> list[str]:
    return text.split()
