"""Captions: those too long for the text encoder, what they have in common, and editing them on the page.

An edit is the only thing that ever writes into a dataset folder, and only when the user saves it.
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ed2.data.caption_files import caption_files_of, split_extension
from ed2.data.example import Example
from ed2.data.walk import escape_undecodable
from ed2.disk import write_whole
from ed2.errors import Ed2Error, Problem
from ed2.small_files import read_object
from ed2.text import counted, plural

MAX_NAMES = 3
"""How many images a note names."""
MAX_FINDINGS = 20
"""How many images get a note of their own."""
COUNTED_AT_ONCE = 1000
EXTENSIONS = (".txt", ".caption")
MAX_CHARACTERS = 10_000
SHORTEN = "Shorten it, or raise caption_chunks (3 at most)."

MAX_PHRASE_WORDS = 8
MIN_CAPTIONS = 3
SHARE_OF_CAPTIONS = 0.75
LEADING_ON = tuple("a an the this of in on at by with without and or from for to as is are his her its".split())
KINDS_OF_IMAGE = tuple(
    "photo photograph picture image painting drawing portrait illustration close-up close up".split()
)

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Returns the number of tokens of each text, without start and end tokens."""


@dataclass(frozen=True)
class LongCaptions:
    """The images whose caption has more than `limit` tokens, with its number of tokens."""

    found: Sequence[tuple[Example, int]]
    limit: int

    def findings(self) -> list[Problem]:
        """A note for each image; those beyond the first 20 as a count."""
        notes = []
        for example, count in self.found[:MAX_FINDINGS]:
            what = f"the caption has {count} tokens; only the first {self.limit} are used."
            notes.append(Problem(example.name, what, SHORTEN))
        more = len(self.found) - MAX_FINDINGS
        if more > 0:
            notes.append(Problem(None, f"{more:,} more captions have more than {self.limit} tokens.", SHORTEN))
        return notes

    def sentence(self) -> str:
        """A sentence on all of them, empty if there are none."""
        if not self.found:
            return ""
        longest = sorted(self.found, key=lambda pair: -pair[1])[:MAX_NAMES]
        names = ", ".join(f"{example.name} ({count})" for example, count in longest)
        verb = plural(len(self.found), "has", "have")
        end = ", ..." if len(self.found) > MAX_NAMES else "."
        start = f"{counted(len(self.found), 'caption')} {verb} more than {self.limit} tokens"
        return f"{start}; the rest is ignored: {names}{end}"


def long_captions(examples: Sequence[Example], count_tokens: TokenCounter, limit: int) -> LongCaptions:
    """Find the captions that are longer than the text encoder reads."""
    # A token is at least one byte, so most captions do not have to be counted.
    suspects = [example for example in examples if len(example.caption.encode()) > limit]
    counts: list[int] = []
    for start in range(0, len(suspects), COUNTED_AT_ONCE):
        counts += count_tokens([example.caption for example in suspects[start : start + COUNTED_AT_ONCE]])
    found = [(example, count) for example, count in zip(suspects, counts, strict=True) if count > limit]
    return LongCaptions(found, limit)


def trigger_phrase(captions: Iterable[str]) -> str:
    """The words that most captions begin with, such as `sks dog`; empty unless that is clear.

    They are the longest beginning of the main prompts, before the first comma, that at least three quarters of the
    captions share. Words that lead on (`of`, `with`) are taken off its end, and what names no subject, such as
    `a photo of`, is no phrase.
    """
    phrase = _common_words([caption.partition(",")[0].split() for caption in captions if caption.strip()])
    while phrase and phrase[-1].lower() in LEADING_ON:
        phrase.pop()
    has_subject = any(word.lower() not in LEADING_ON + KINDS_OF_IMAGE for word in phrase)
    return " ".join(phrase) if has_subject else ""


def _common_words(texts: Sequence[Sequence[str]]) -> list[str]:
    """The words that most texts begin with, without punctuation behind them."""
    texts = [[word.rstrip(".;:!?") for word in words[:MAX_PHRASE_WORDS]] for words in texts]
    num_required = max(MIN_CAPTIONS, math.ceil(SHARE_OF_CAPTIONS * len(texts)))
    common: list[str] = []
    while True:
        texts = [words for words in texts if list(words[: len(common)]) == common and len(words) > len(common)]
        following = Counter(words[len(common)] for words in texts)
        word, count = following.most_common(1)[0] if following else ("", 0)
        if count < num_required or not word.isprintable():
            return common
        common.append(word)


@dataclass(frozen=True)
class CaptionEdits:
    """Writes captions beside their images and keeps the previous text of each.

    Attributes:
        folder: where previous texts are kept.
    """

    folder: Path

    def save(self, image: Path, text: str) -> Path:
        """Write the caption of an image into its caption file, and return that file.

        Raises:
            Ed2Error: the caption is too long or cannot be written, or the image is gone; nothing is changed.
        """
        what = "The caption was not saved"
        if len(text) > MAX_CHARACTERS:
            raise Ed2Error(what, f"it has more than {MAX_CHARACTERS:,} characters.", "Shorten it.")
        if not image.is_file():
            why = f"{escape_undecodable(image.name)} no longer exists."
            raise Ed2Error(what, why, "Press Check to read the folder again.")
        target = caption_file(image)
        try:
            self._keep(target)
            write_whole(target, (" ".join(text.split()) + "\n").encode())
        except OSError as error:
            raise Ed2Error(what, f"{error.strerror or error}.") from None
        return target

    def undo(self, image: Path) -> bool:
        """Restore the text before the last save; False if nothing was saved.

        Raises:
            Ed2Error: it cannot be written.
        """
        what = "The caption was not restored"
        target = caption_file(image)
        records = self._records(target)
        if not records:
            return False
        try:
            old = read_object(records[-1])["old"]
            if old is None:
                target.unlink(missing_ok=True)
            else:
                write_whole(target, base64.b64decode(old))
        except OSError as error:
            raise Ed2Error(what, f"{error.strerror or error}.") from None
        except (ValueError, KeyError, TypeError):
            fix = "Delete that file; the caption stays as it is."
            raise Ed2Error(what, f"the previous text in {records[-1]} is damaged.", fix) from None
        records[-1].unlink()
        return True

    def _keep(self, target: Path) -> None:
        old = base64.b64encode(target.read_bytes()).decode() if target.exists() else None
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"path": str(target), "old": old}
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.json"
        write_whole(self.folder / name, escape_undecodable(json.dumps(record, ensure_ascii=False)).encode())

    def _records(self, target: Path) -> list[Path]:
        """Return the records of a caption file, oldest first."""
        found = []
        for file in sorted(self.folder.glob("[!.]*.json")):
            try:
                if read_object(file)["path"] == str(target):
                    found.append(file)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found


def caption_file(image: Path) -> Path:
    """Return the caption file of an image: the strongest existing one of text, or else a new .txt beside it."""
    try:
        found = [path for path in caption_files_of(image) if path.suffix.lower() in EXTENSIONS]
    except OSError:  # the folder cannot be read, which writing will report
        found = []
    return found[-1] if found else image.with_name(f"{split_extension(image.name)[0]}{EXTENSIONS[0]}")
