"""Sample prompts in text files, one per line, also with the options that other programs write behind a prompt."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ed2.registry import SAMPLERS
from ed2.sampling.prompt import Prompt, PromptDefaults, cleaned
from ed2.sampling.prompt_json import make_prompt, read_values

Values = dict[str, Any]

NAMES: Mapping[str, str] = {
    "n": "negative_prompt",
    "negative_prompt": "negative_prompt",
    "no": "negative_prompt",
    "w": "width",
    "width": "width",
    "h": "height",
    "height": "height",
    "d": "seed",
    "seed": "seed",
    "l": "cfgs",
    "cfg_scale": "cfgs",
    "cfg": "cfgs",
    "scale": "cfgs",
    "s": "num_inference_steps",
    "steps": "num_inference_steps",
    "ss": "scheduler",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "ar": "aspect_ratio",
    "prompt": "prompt",
}
"""Options of sd-scripts (--n --w --h --d --l --s --ss), of the script of the AUTOMATIC1111 web UI (long names) and of
Midjourney (--ar, --no), as names of our JSON files."""
COPIED = {"seed": "seed", "cfg scale": "cfgs", "steps": "num_inference_steps", "sampler": "scheduler"}
"""Names in the last line of what the AUTOMATIC1111 web UI copies; `Size` is read apart."""
OPTION = re.compile(r"(?:^|\s)--([A-Za-z_]+)(?=[\s=]|$)[\s=]*")
NEGATIVE = re.compile(r"negative prompt:", re.IGNORECASE)
COPIED_LINE = re.compile(r"steps: *\d+ *,", re.IGNORECASE)
PLAIN_TEXT = (
    (re.compile(r"<(?:lora|lyco|hypernet):", re.IGNORECASE), "<lora:...> loads nothing here"),
    (re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)"), "(word:1.2) has no effect here"),
)
"""What other programs read and this one takes as text, with what to say of it."""
FIRST_NAMES = {"k_euler": "euler", "k_euler_a": "euler_a", "euler a": "euler_a", "k_lms": "lms", "k_heun": "heun"}


@dataclass
class TextPrompts:
    """The prompts of a text file.

    Attributes:
        samples: the values of each prompt by the names of JSON files.
        notes: what could not be used, in sentences.
    """

    samples: list[Values] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def prompts(self, defaults: PromptDefaults) -> list[Prompt]:
        """The prompts to draw."""
        return [make_prompt(index, sample, defaults) for index, sample in enumerate(self.samples)]


def prompts_in_text(content: bytes) -> TextPrompts:
    """The prompts of a text file, one per line; blank lines and lines that begin with # are skipped."""
    found = TextPrompts()
    for line in map(cleaned, _decoded(content).split("\n")):
        if not line or line.startswith("#"):
            continue
        if found.samples and NEGATIVE.match(line):
            found.samples[-1]["negative_prompt"] = line.partition(":")[2].strip()
        elif found.samples and COPIED_LINE.match(line):
            _add(found, found.samples[-1], _copied_options(line))
        else:
            found.samples.append(_parse_prompt(line, found))
    return found


def _decoded(content: bytes) -> str:
    """Text from UTF-8, UTF-16 with a byte order mark, or else Windows-1252; lines end in LF."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse_prompt(line: str, found: TextPrompts) -> Values:
    """The prompt of a line, with the options behind it; what is not an option stays in the text and is reported."""
    parts = OPTION.split(line)
    text, options = parts[0].strip(), []
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        if name in NAMES:
            options.append((NAMES[name], value.strip().strip('"')))
            continue
        found.notes.append(f"--{name} is not a prompt option and stays in the text.")
        text = f"{text} --{name} {value}".strip()
    for pattern, what in PLAIN_TEXT:
        if pattern.search(text) and not any(what in note for note in found.notes):
            found.notes.append(f"{what}: it is read as text.")
    sample: Values = {"prompt": text}
    _add(found, sample, options)
    return sample


def _copied_options(line: str) -> list[tuple[str, str]]:
    options = []
    for part in line.split(","):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name.lower() in COPIED:
            options.append((COPIED[name.lower()], value))
        elif name.lower() == "size":
            width, _, height = value.partition("x")
            options += [("width", width), ("height", height)]
    return options


def _add(found: TextPrompts, sample: Values, options: list[tuple[str, str]]) -> None:
    """Add options to a prompt; values that cannot be used are reported."""
    for name, text in options:
        values, faults = read_values({name: _CONVERTERS.get(name, str)(text)}, "")
        sample |= values
        found.notes += faults


def _number(text: str) -> object:
    """The number, or the text for the reader to reject."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _sampler(text: str) -> str:
    name = FIRST_NAMES.get(text.lower(), text.lower())
    return name if name in SAMPLERS else text


_CONVERTERS: Mapping[str, Callable[[str], object]] = {
    "width": _number,
    "height": _number,
    "seed": _number,
    "num_inference_steps": _number,
    "cfgs": lambda text: [_number(text)],
    "scheduler": _sampler,
}
