"""Sample prompts as a table that people fill, and as the JSON file that the sampler reads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ed2.errors import Problem, SettingsError
from ed2.sampling.prompts import MAX_FILE_BYTES, MAX_PROMPTS, PromptDefaults, prompts_from_text

HEADERS = ("Prompt", "Negative prompt", "Seed", "Width", "Height", "CFG")
EMPTY = ("", "", "", "", "", "")
MAX_CFGS = 12

Row = tuple[str, ...]


def rows_of(path: Path) -> list[Row]:
    """The prompts of a file, a row each; what the file leaves unsaid is empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file of prompts.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES)
    if path.suffix.lower() != ".json":
        prompts = prompts_from_text(content, PromptDefaults(0, (0, 0)))
        return [(prompt.prompt, *EMPTY[1:]) for prompt in prompts]
    values = json.loads(content)
    samples = values.get("samples") if isinstance(values, dict) else None
    if not isinstance(samples, list):
        raise ValueError("it holds no list of samples")
    return [_row({**values, **sample}) for sample in samples if isinstance(sample, dict)]


def file_of(rows: Sequence[Sequence[object]]) -> str:
    """The JSON file of a table; rows without a prompt are left out.

    Raises:
        SettingsError: lists every cell that cannot be used.
    """
    problems: list[Problem] = []
    samples = []
    for number, row in enumerate(rows[:MAX_PROMPTS], 1):
        cells = [str(cell if cell is not None else "").strip() for cell in row]
        if cells and cells[0]:
            samples.append(_sample(number, [*cells, *EMPTY][: len(HEADERS)], problems))
    if problems:
        raise SettingsError("The prompts are not saved:", problems)
    return json.dumps({"samples": samples}, indent=2, ensure_ascii=False) + "\n"


def _row(sample: dict[str, object]) -> Row:
    size = sample.get("size")
    width, height = size if isinstance(size, list) and len(size) == 2 else ("", "")
    cfgs = sample.get("cfgs")
    cfg_text = " ".join(f"{cfg:g}" for cfg in cfgs if isinstance(cfg, int | float)) if isinstance(cfgs, list) else ""
    texts = (sample.get("prompt", ""), sample.get("negative_prompt", ""), sample.get("seed", ""), width, height)
    return (*map(str, texts), cfg_text)


def _sample(number: int, cells: Sequence[str], problems: list[Problem]) -> dict[str, object]:
    prompt, negative, seed, width, height, cfg = cells
    sample: dict[str, object] = {"prompt": prompt}
    if negative:
        sample["negative_prompt"] = negative
    whole = {name: _whole(number, name, text, problems) for name, text in
             (("Seed", seed), ("Width", width), ("Height", height)) if text}  # fmt: skip
    if "Seed" in whole:
        sample["seed"] = whole["Seed"]
    if "Width" in whole and "Height" in whole:
        sample["size"] = [whole["Width"], whole["Height"]]
    elif "Width" in whole or "Height" in whole:
        fix = "Leave both empty for the usual one."
        problems.append(Problem(f"row {number}", "a size takes a width and a height.", fix))
    if cfg:
        sample["cfgs"] = _cfgs(number, cfg, problems)
    return sample


def _whole(number: int, name: str, text: str, problems: list[Problem]) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -2.0
    if value < -1 or not value.is_integer() or (name != "Seed" and not 16 <= value <= 2048):
        fix = "-1 draws one each time." if name == "Seed" else "From 16 to 2048 pixels."
        problems.append(Problem(f"row {number}", f"{name} takes a whole number, not {text!r}.", fix))
        return 0
    return int(value)


def _cfgs(number: int, text: str, problems: list[Problem]) -> list[float]:
    try:
        cfgs = [float(part) for part in re.split(r"[\s,;]+", text) if part]
    except ValueError:
        cfgs = []
    if not 0 < len(cfgs) <= MAX_CFGS or not all(0 <= cfg <= 100 for cfg in cfgs):
        problems.append(Problem(f"row {number}", f"CFG takes numbers such as 1 4 7, not {text!r}."))
    return cfgs
