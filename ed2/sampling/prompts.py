"""The sample prompts of a file, which can be edited during the run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ed2.sampling.prompt import MAX_PROMPTS, MAX_WORK, FileOptions, Prompt, PromptDefaults, rounded_size
from ed2.sampling.prompt_json import prompts_from_json
from ed2.sampling.prompt_text import prompts_in_text
from ed2.small_files import read_beginning

MAX_CHARACTERS = 1000
"""Longest prompt; the text encoder reads 75 tokens, about 400 characters of English."""
MAX_FILE_BYTES = 1 << 20
MAX_FAULTS = 5
"""How many faults of a file are reported."""


@dataclass
class PromptFile:
    """A prompt file, read again whenever samples are due; if it is damaged, the last good prompts stay in use.

    Attributes:
        path: None draws no samples.
        seed: for prompts that do not set one.
        resolution: in pixels; prompts without a size are resolution x resolution.
        multiple: sides must be a multiple of this, in pixels.
        captions: of the training images, for random captions.
        trained: the key of an image by its caption, whose white space is single spaces.
        options: of the file when it was last read.
    """

    path: Path | None
    seed: int
    resolution: int
    multiple: int = 64
    captions: Sequence[str] = field(default=(), repr=False)
    trained: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: FileOptions = field(default_factory=FileOptions)
    _prompts: tuple[Prompt, ...] = ()
    _reported: str = field(default="", repr=False)

    def read(self, step: int = 0) -> tuple[tuple[Prompt, ...], str]:
        """The prompts as they are now; `step` keys random captions and seeds.

        Returns:
            The prompts, from the last good reading if the file is now missing, empty or unreadable; and a note for the
            user, empty if there is nothing new to say.
        """
        if self.path is None:
            return (), ""
        try:
            prompts, faults = self._parsed(self.path, step)
        except (OSError, ValueError) as error:
            return self._prompts, self._once(self._unusable(self.path, _reason(error)))
        limited, notes = _limited(prompts)
        self._prompts = tuple(replace(prompt, trained=self._trained(prompt)) for prompt in limited)
        notes = [*faults[:MAX_FAULTS], *notes]
        return self._prompts, self._once(f"{self.path.name}: {' '.join(notes)}" if notes else "")

    def _parsed(self, path: Path, step: int) -> tuple[list[Prompt], list[str]]:
        """The prompts of the file, and what is wrong with it, in sentences. Raises OSError, ValueError."""
        content = _content(path)
        size = rounded_size(self.resolution, self.resolution, self.multiple)
        defaults = PromptDefaults(self.seed, size, self.multiple, self.captions, step)
        if path.suffix.lower() == ".json":
            prompts, self.options, faults = prompts_from_json(content, defaults)
        else:
            found = prompts_in_text(content)
            prompts, faults = found.prompts(defaults), found.notes
        if not prompts:
            raise ValueError("it contains no prompts")
        return prompts, faults

    def _trained(self, prompt: Prompt) -> str:
        return self.trained.get(" ".join(prompt.prompt.split()), "")

    def _unusable(self, path: Path, reason: str) -> str:
        then = "Add prompts to it, one per line, to get samples."
        if self._prompts:
            then = "The earlier prompts stay in use."
        return f"Cannot use the sample prompts in {path}: {reason}. {then}"

    def _once(self, text: str) -> str:
        """`text`, or nothing if it was the last one returned."""
        is_new, self._reported = text != self._reported, text
        return text if is_new else ""


def _content(path: Path) -> bytes:
    """The file's bytes; of a huge file only the whole lines at its beginning.

    Raises:
        OSError: it cannot be read.
    """
    content = read_beginning(path, MAX_FILE_BYTES + 1)
    return content if len(content) <= MAX_FILE_BYTES else content[:MAX_FILE_BYTES].rpartition(b"\n")[0]


def _limited(prompts: Iterable[Prompt]) -> tuple[tuple[Prompt, ...], list[str]]:
    """The prompts within the limits, and sentences on what was cut."""
    prompts, notes = list(prompts), []
    first = prompts[:MAX_PROMPTS]
    kept = [first[0], *_affordable(first[1:], MAX_WORK - first[0].work)]
    if len(kept) < len(prompts):
        why = "" if len(kept) == MAX_PROMPTS else ", since more would take hours each time"
        notes.append(f"only the first {len(kept)} of its {len(prompts)} prompts are used{why}.")
    if any(len(prompt.prompt) > MAX_CHARACTERS for prompt in kept):
        notes.append(f"prompts are cut at {MAX_CHARACTERS} characters.")
    return tuple(map(_cut, kept)), notes


def _affordable(prompts: Iterable[Prompt], work: float) -> Iterator[Prompt]:
    """The first prompts that together take at most `work`."""
    for prompt in prompts:
        work -= prompt.work
        if work < 0:
            return
        yield prompt


def _cut(prompt: Prompt) -> Prompt:
    text, negative = prompt.prompt[:MAX_CHARACTERS], prompt.negative_prompt[:MAX_CHARACTERS]
    return replace(prompt, prompt=text, negative_prompt=negative)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return getattr(error, "strerror", None) or str(error)
