"""Captions that were typed and not saved: kept for every page until they are, so that none is lost by a press."""

import threading
from collections.abc import Iterable
from html import escape

from ed2.app.images.captions import MAX_CHARACTERS
from ed2.data.example import Example

MAX_NAMED = 5
MARK = """path => { const list = document.getElementById('dataset-pictures'); list.dataset.chosen = path ?? '';
  for (const tile of list.querySelectorAll('[data-image]')) {
    const isChosen = tile.dataset.image === path;
    if (tile.classList.contains('ed-chosen') === isChosen) continue;  // else the observer would see itself for ever
    tile.classList.toggle('ed-chosen', isChosen);
    tile.querySelector('button').setAttribute('aria-pressed', isChosen); } }"""
"""Shows which image's caption stands in the box. It is no press: a mark that comes late must undo none."""
CHOOSE = f"new MutationObserver(() => ({MARK})(document.getElementById('dataset-pictures').dataset.chosen))"
CHOOSE += """.observe(
  element, {childList: true, subtree: true, attributeFilter: ['class', 'data-image']});  // drawn anew: no mark
element.addEventListener('click', event => {
  const tile = event.target.closest('[data-image]');
  if (!tile) return;
  for (const other of element.querySelectorAll('.ed-pressed')) other.classList.remove('ed-pressed');
  tile.classList.add('ed-pressed');
  trigger('click');
  document.getElementById('caption-text').scrollIntoView({block: 'center', behavior: 'smooth'});
})"""
TILE = "[...document.querySelectorAll('#dataset-pictures [data-image]')].find(tile => tile.dataset.image === path)"
PRESSED = """(path, text) => { const tile = document.querySelector('#dataset-pictures .ed-pressed');
  return tile ? [tile.dataset.image, tile.dataset.text] : [path, text]; }"""
"""An image that is pressed is the one whose caption is edited, at once: its tile knows what the box begins with."""
SHOW = f"(path, text) => {TILE}?.dataset.text ?? text"
KEEP = f"(path, text) => {{ const tile = {TILE}; if (tile) tile.dataset.text = text; return [path, text]; }}"
"""What was typed is there again when the image is chosen again."""


class CaptionDrafts:
    """What stands in the box of an image, by its path, where that is not its caption."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def keep(self, example: Example, text: str) -> None:
        """Remember what was typed; a caption that is as it was is no draft."""
        with self._lock:
            self._texts.pop(str(example.path), None)
            if _plain(text) != _plain(example.caption):
                self._texts[str(example.path)] = text[: MAX_CHARACTERS + 1]  # so long that saving it is refused

    def forget(self, example: Example, text: str) -> None:
        """This was saved as the caption of the image, or given up for the one before; what was typed since stays."""
        with self._lock:
            if self._texts.get(str(example.path)) == text[: MAX_CHARACTERS + 1]:
                del self._texts[str(example.path)]

    def hold(self, example: Example) -> bool:
        """Whether something was typed for this image that is not its caption."""
        return _plain(self.shown(example)) != _plain(example.caption)

    def shown(self, example: Example) -> str:
        """What the box of an image begins with."""
        return self._texts.get(str(example.path), example.caption)

    def as_html(self, examples: Iterable[Example]) -> str:
        """Which of these images have a caption that is not saved; announced by screen readers."""
        names = [example.name for example in examples if self.hold(example)]
        told = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED:,} more" if names[MAX_NAMED:] else "")
        text = f"Not saved yet: the caption of {escape(told)}. It is kept until the program ends." if names else ""
        return f'<p class="ed-note" role="status">{text}</p>'


def _plain(text: str) -> str:
    return " ".join(text.split())
