"""Captions: those too long for the text encoder, what they have in common, and the files that an edit changes."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ed2.app.images.edits import FileChange, content_of
from ed2.data.caption_files import caption_files_in, split_extension
from ed2.data.example import Example
from ed2.data.manifest import is_manifest
from ed2.data.text_files import MAX_BYTES, caption_from_name, decode_text
from ed2.data.walk import escape_undecodable
from ed2.errors import Ed2Error, Problem
from ed2.text import counted, plural

MAX_NAMES = 3
"""How many images a note names."""
MAX_FINDINGS = 20
"""How many images get a note of their own."""
COUNTED_AT_ONCE = 1000
EXTENSIONS = (".txt", ".caption")
MAX_CHARACTERS = 10_000
SHORTEN = "Shorten it, or raise caption_chunks (3 at most)."

MAX_TAGS = 200
"""In the metadata of a LoRA; captions that are sentences have as many as there are images."""
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


def tag_frequency(captions: Iterable[str], name: str) -> str:
    """How many captions each tag between commas is in, most frequent first: JSON, as sd-scripts has it in a LoRA."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(list(dict.fromkeys(filter(None, map(str.strip, caption.split(","))))))  # each tag once
    return json.dumps({name: dict(counts.most_common(MAX_TAGS))})


def _common_words(texts: Sequence[Sequence[str]]) -> list[str]:
    """The words that most texts begin with, without punctuation behind them."""
    num_required = max(MIN_CAPTIONS, math.ceil(SHARE_OF_CAPTIONS * len(texts)))
    common: list[str] = []
    for place in range(MAX_PHRASE_WORDS):
        texts = [words for words in texts if len(words) > place]
        following = Counter(words[place].rstrip(".;:!?") for words in texts)
        for word, count in following.most_common(1):
            if count < num_required or not word.isprintable():
                return common
            common.append(word)
        texts = [words for words in texts if words[place].rstrip(".;:!?") == common[-1]]
    return common


@dataclass(frozen=True)
class OwnCaption:
    """The text beside an image, which an edit changes; folders and other files may add tags to it."""

    image: Path
    file: Path
    """Where an edit is written: the strongest text file of the image, or else a new one."""
    content: bytes | None
    text: str
    """On one line; what the file's name says if there is no text."""
    locked: str = ""
    """Why it cannot be edited here; empty if it can."""

    @property
    def is_written(self) -> bool:
        """Whether its file says anything."""
        return bool((self.content or b"").strip())

    def changed_to(self, text: str) -> FileChange:
        """The change that gives the image this caption.

        Raises:
            Ed2Error: it is too long, or cannot be edited here, or the image is gone.
        """
        name = escape_undecodable(self.image.name)
        why, fix = self.locked, ""
        if not why and len(text) > MAX_CHARACTERS:
            why, fix = f"the caption of {name} has more than {MAX_CHARACTERS:,} characters.", "Shorten it."
        if not why and not self.image.is_file():
            why, fix = f"{name} no longer exists.", "Press Check to read the folder again."
        if why:
            raise Ed2Error("Nothing was changed", why, fix)
        return FileChange(self.file, self.content, (" ".join(text.split()) + "\n").encode())


class CaptionListing:
    """The caption files of images, the strongest last; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, tuple[Path, ...]]] = {}

    def of(self, image: Path) -> tuple[Path, ...]:
        """Those of an image; none in a folder that cannot be read, which writing would report."""
        if image.parent not in self._folders:
            self._folders[image.parent] = {}
            with suppress(OSError):
                self._folders[image.parent] = caption_files_in(image.parent)
        return self._folders[image.parent].get(image.name, ())


class CaptionReader:
    """Reads the captions beside images."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Read images of these data roots."""
        self._manifests = [is_manifest(root) for root in roots]
        self._listing = CaptionListing()

    def read(self, example: Example) -> OwnCaption:
        """Read the caption of an image as its file is now."""
        image, name = example.path, escape_undecodable(example.path.name)
        if self._manifests[example.root]:
            locked = f"the caption of {name} is in a manifest; edit that file."
            return OwnCaption(image, image, None, example.caption, locked)
        found = self._listing.of(image)
        texts = [path for path in found if path.suffix.lower() in EXTENSIONS]
        if found and found[-1] not in texts:
            locked = f"the caption of {name} is in {escape_undecodable(found[-1].name)}; edit that file."
            return OwnCaption(image, found[-1], None, example.caption, locked)
        file = texts[-1] if texts else image.with_name(f"{split_extension(image.name)[0]}{EXTENSIONS[0]}")
        return _read_caption(image, file)


def _read_caption(image: Path, file: Path) -> OwnCaption:
    name, locked = escape_undecodable(file.name), ""
    try:
        content = content_of(file)
    except OSError as error:
        content, locked = None, f"{name} cannot be read ({error.strerror or error})."
    if content is not None and len(content) > MAX_BYTES:
        locked = f"{name} is larger than {MAX_BYTES // 1024} KB."
    text = " ".join(decode_text((content or b"")[:MAX_BYTES])[0].split())
    return OwnCaption(image, file, content, text or caption_from_name(image), locked)
