"""Words for counts, times, sizes and paths, the same in the terminal, the log and the page."""

import re
from collections.abc import Sequence
from pathlib import Path

SWITCH_WORDS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
"""What people write for a switch that is on or off."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that move the cursor, ring, set the title, or change the direction or order of what is shown."""
_UNINDENTED = re.compile(r"(?<=.)\n(?=[^ \n])")


def counted(number: int, noun: str, plural_noun: str = "") -> str:
    """A number of things: "1 step", "2 steps", "12,000 steps"."""
    return f"{number:,} {plural(number, noun, plural_noun)}"


def plural(number: int, word: str, plural_word: str = "") -> str:
    """The word alone, in the plural for any number except one: "image", "images"; "was", "were"."""
    return word if number == 1 else plural_word or f"{word}s"


def listed(items: Sequence[str], word: str = "and") -> str:
    """Things in a row: "a", "a and b", "a, b and c"."""
    return f" {word} ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def first_of(items: Sequence[str], limit: int) -> str:
    """The first things of a list, at most `limit`, and how many more there are: "a, b and 5 more"."""
    shown = ", ".join(items[:limit])
    if len(items) <= limit:
        return shown
    return f"{shown} and {len(items) - limit:,} more"


def value_text(value: object) -> str:
    """A setting's value in a sentence: "on", "off", "empty", "1e-06", "768"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def step_name(step: int) -> str:
    """The step that samples were drawn at: "step 1,200", or "before training"."""
    return f"step {step:,}" if step else "before training"


def duration(seconds: float) -> str:
    """A time that was measured, in its two largest units: "2 h 5 min", "3 min 20 s", "4.2 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return _units((hours, "h"), (minutes, "min"))
    return _units((minutes, "min"), (rest, "s"))


def rough_duration(seconds: float) -> str:
    """A time that is estimated, in steps of at most a tenth: "3 s", "40 s", "47 min", "2 h 20 min", "31 h"."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 95:
        return f"{round(seconds / 10) * 10} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 595:
        hours, tens = divmod(round(minutes / 10), 6)
        return _units((hours, "h"), (10 * tens, "min"))
    return f"{round(minutes / 60):,} h"


def _units(*parts: tuple[int, str]) -> str:
    """Those that are not 0: "3 min 20 s", "3 min"."""
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def file_size(num_bytes: int) -> str:
    """Bytes in decimal units, as file managers and drives count: "6.5 MB", "2.1 GB"."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    size = num_bytes / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def shown_path(path: Path) -> str:
    """A path relative to the current folder if it is below it; otherwise in full."""
    here = Path.cwd()
    if path.is_relative_to(here):
        path = path.relative_to(here)
    return visible_line(str(path))


def visible(text: str) -> str:
    r"""The text with control characters spelled out, such as `\x1b`, so that it cannot act on what shows it.

    Everything that is printed, logged or put on the page goes through this, at that place. Line ends and tabs stay.
    """
    return _CONTROLS.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same with line ends spelled out too: for a name or a value within a message."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def as_record(text: str) -> str:
    """A message for a log or a terminal: visible, without colours, and with its further lines indented.

    So a line break in a name cannot look like a message of its own.
    """
    return _UNINDENTED.sub("\n  ", visible(_COLOURS.sub("", text)))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
