"""Words for counts, times, sizes and paths, the same in the terminal, the log and the page."""

import re
from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def counted(number: int, noun: str, plural_noun: str = "") -> str:
    """A number of things: "1 step", "2 steps", "12,000 steps"."""
    return f"{number:,} {plural(number, noun, plural_noun)}"


def plural(number: int, word: str, plural_word: str = "") -> str:
    """The word alone, in the plural for any number but one: "image", "images"; "was", "were"."""
    return word if number == 1 else plural_word or f"{word}s"


def duration(seconds: float) -> str:
    """A time in its two largest units: "2 h 5 min", "3 min 20 s", "4.2 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def file_size(num_bytes: int) -> str:
    """Bytes in decimal units, as file managers and drives count: "6.5 MB", "2.1 GB"."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def shown_path(path: Path) -> str:
    """A path relative to the current folder where it lies below it; else in full."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def without_ansi(text: str) -> str:
    """The text without terminal colours and cursor movements, which messages of libraries may hold."""
    return _ANSI.sub("", text)
