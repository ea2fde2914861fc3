"""Captions that were typed and not saved: kept for every page until they are, so that none is lost by a press."""

import threading
from collections.abc import Iterable
from html import escape

from ed2.app.pictures.caption_edits import MAX_CHARACTERS
from ed2.data.example import Example

MAX_NAMED = 5


class CaptionDrafts:
    """What stands in the box of a picture, by its path, where that is not its caption."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def keep(self, example: Example, text: str) -> None:
        """Remember what was typed; a caption that is as it was is no draft."""
        with self._lock:
            self._texts.pop(str(example.path), None)
            if _plain(text) != _plain(example.caption):
                self._texts[str(example.path)] = text[: MAX_CHARACTERS + 1]  # so long that saving it is refused

    def forget(self, example: Example) -> None:
        """The caption of this picture was saved or put back."""
        with self._lock:
            self._texts.pop(str(example.path), None)

    def shown(self, example: Example) -> str:
        """What the box of a picture begins with."""
        return self._texts.get(str(example.path), example.caption)

    def as_html(self, examples: Iterable[Example]) -> str:
        """Which of these pictures have a caption that is not saved; announced by screen readers."""
        names = [example.name for example in examples if _plain(self.shown(example)) != _plain(example.caption)]
        told = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED:,} more" if names[MAX_NAMED:] else "")
        text = f"Not saved yet: the caption of {escape(told)}. It is kept until the program ends." if names else ""
        return f'<p class="ed-note" role="status">{text}</p>'


def _plain(text: str) -> str:
    return " ".join(text.split())
