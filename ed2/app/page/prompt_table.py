"""Sample prompts as a table to fill in, and as the JSON file that the sampler reads."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.errors import Problem, SettingsError
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import MAX_PROMPTS, NUM_STEPS
from ed2.sampling.prompt_json import MAX_CFGS, MAX_STEPS
from ed2.sampling.prompt_text import prompts_in_text
from ed2.sampling.prompts import MAX_FILE_BYTES
from ed2.small_files import parse_json, read_beginning

HEADERS = ("Prompt", "Negative prompt", "Seed", "Width", "Height", "CFG")
EMPTY = ("", "", "", "", "", "")
NOT_SAVED = "The prompts were not saved:"

Row = tuple[str, ...]


@dataclass(frozen=True)
class PromptTable:
    """Prompts as users fill them in.

    Attributes:
        rows: one prompt each, with the values that differ from the defaults.
        sampler: of all of them; empty is the default.
        num_steps: denoising steps of all of them; None is the default.
    """

    rows: Sequence[Sequence[object]]
    sampler: str = ""
    num_steps: int | None = None


def table_of(path: Path) -> PromptTable:
    """The prompts of a file, one per row; values that the file does not set are empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a prompt file.
    """
    content = read_beginning(path, MAX_FILE_BYTES)
    if path.suffix.lower() != ".json":
        return PromptTable(list(map(_row, prompts_in_text(content).samples)))
    values = parse_json(content)
    samples = values.get("samples") if isinstance(values, dict) else None
    if not isinstance(samples, list):
        raise ValueError("it contains no list of samples")
    sampler, steps = values.get("scheduler"), values.get("num_inference_steps")
    return PromptTable(
        [_row({**values, **sample}) for sample in samples if isinstance(sample, dict)],
        sampler if sampler in SAMPLERS else "",
        steps if isinstance(steps, int) and 1 <= steps <= MAX_STEPS else None,
    )


def file_of(table: PromptTable) -> str:
    """The JSON file of a table; rows without a prompt are left out.

    Raises:
        SettingsError: lists everything that cannot be used.
    """
    problems: list[Problem] = []
    values: dict[str, object] = {"scheduler": table.sampler} if table.sampler else {}
    if table.num_steps is not None:
        values["num_inference_steps"] = table.num_steps
        if not 1 <= table.num_steps <= MAX_STEPS:
            what = f"the number of denoising steps must be from 1 to {MAX_STEPS:,}, not {table.num_steps}."
            problems.append(Problem(None, what, f"The default is {NUM_STEPS}."))
    samples = []
    for number, row in enumerate(table.rows[:MAX_PROMPTS], 1):
        cells = [_text(cell) for cell in [*row, *EMPTY][: len(HEADERS)]]
        if cells[0]:
            samples.append(_sample(number, cells, problems))
    if problems:
        raise SettingsError(NOT_SAVED, problems)
    return json.dumps({**values, "samples": samples}, indent=2, ensure_ascii=False) + "\n"


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _row(sample: dict[str, object]) -> Row:
    size, cfgs = sample.get("size"), sample.get("cfgs")
    if not isinstance(size, list) or len(size) != 2:
        size = [sample.get("width", ""), sample.get("height", "")]
    if not isinstance(cfgs, list | tuple):
        cfgs = []
    cfg_texts = [f"{cfg:g}" for cfg in cfgs if isinstance(cfg, int | float)]
    cells = [*(sample.get(name, "") for name in ("prompt", "negative_prompt", "seed")), *size]
    return (*map(str, cells), " ".join(cfg_texts))


def _sample(number: int, cells: Sequence[str], problems: list[Problem]) -> dict[str, object]:
    prompt, negative, seed, width, height, cfg = cells
    sample: dict[str, object] = {"prompt": prompt}
    if negative:
        sample["negative_prompt"] = negative
    if seed:
        sample["seed"] = _whole(number, "Seed", seed, problems)
    sizes = [_whole(number, name, text, problems) for name, text in (("Width", width), ("Height", height)) if text]
    if len(sizes) == 2:
        sample["size"] = sizes
    elif sizes:
        fix = "Leave both empty for the default size."
        problems.append(Problem(f"row {number}", "a size needs both width and height.", fix))
    if cfg:
        sample["cfgs"] = _cfgs(number, cfg, problems)
    return sample


def _whole(number: int, name: str, text: str, problems: list[Problem]) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -2.0
    if value < -1 or not value.is_integer() or (name != "Seed" and not 16 <= value <= 2048):
        fix = "-1 draws a new seed each time." if name == "Seed" else "Use 16 to 2048 pixels."
        problems.append(Problem(f"row {number}", f"{name} must be a whole number, not {text!r}.", fix))
        return 0
    return int(value)


def _cfgs(number: int, text: str, problems: list[Problem]) -> list[float]:
    try:
        cfgs = [float(part) for part in re.split(r"[\s,;]+", text) if part]
    except ValueError:
        cfgs = []
    if not 0 < len(cfgs) <= MAX_CFGS or not all(0 <= cfg <= 100 for cfg in cfgs):
        problems.append(Problem(f"row {number}", f"CFG must be a list of numbers such as 1 4 7, not {text!r}."))
    return cfgs
