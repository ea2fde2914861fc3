"""Writes sample images: a strip of tiles for each prompt, and the list of all samples."""

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ed2.disk import append_whole, write_whole
from ed2.events import Sample
from ed2.sampling.lettering import Lettering
from ed2.sampling.prompt import Prompt
from ed2.small_files import lines_of, objects_in

SAMPLES_DIR = "samples"
SAMPLES_LIST = "samples.jsonl"
WHITE, INK = (255, 255, 255), (32, 33, 36)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two outside."""


@dataclass(frozen=True)
class CfgStrip:
    """Tiles side by side with labels above them; `boxes` says where each tile is, so that it can be cut out again."""

    image: Image.Image
    boxes: tuple[Box, ...]


def cfg_strip(tiles: Sequence[Image.Image], cfgs: Sequence[float]) -> CfgStrip:
    """Put the tiles of one prompt, all of the same size, side by side, each below its CFG value."""
    width, height = tiles[0].size
    font_size = min(28, max(12, width // 18))
    gap, top = max(2, width // 64), font_size + 6
    image = Image.new("RGB", (len(tiles) * (width + gap) - gap, top + height), WHITE)
    draw, font = ImageDraw.Draw(image), Lettering(font_size)
    boxes = [(left, top, left + width, top + height) for left in range(0, len(tiles) * (width + gap), width + gap)]
    for tile, cfg, box in zip(tiles, cfgs, boxes, strict=True):
        font.draw(draw, (box[0] + width / 2, top / 2), _label(cfg, font, width), INK, anchor="mm")
        image.paste(tile, box[:2])
    return CfgStrip(image, tuple(boxes))


def _label(cfg: float, font: Lettering, width: int) -> str:
    """The label of a tile: "CFG 4", or "4" where there is too little space."""
    text = f"CFG {cfg:g}"
    return text if font.length(text) <= width - 4 else f"{cfg:g}"


def write_sample(run_dir: Path, *, step: int, prompt: Prompt, tiles: Sequence[Image.Image]) -> Sample:
    """Write one prompt's image, and a line in the run's list of samples.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    strip = cfg_strip(tiles, prompt.cfgs)
    path = run_dir / SAMPLES_DIR / f"gs{step:05d}" / f"{prompt.index:02d}.png"
    save_png(strip.image, path)
    line = {
        "step": step,
        "index": prompt.index,
        "path": path.relative_to(run_dir).as_posix(),
        "prompt": prompt.prompt,
        "negative_prompt": prompt.negative_prompt,
        "seed": prompt.seed,
        "cfgs": prompt.cfgs,
        "size": prompt.size,
        "tiles": strip.boxes,
    }
    with (run_dir / SAMPLES_LIST).open("ab", buffering=0) as file:
        append_whole(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    return Sample(
        index=prompt.index,
        path=path,
        prompt=prompt.prompt,
        negative_prompt=prompt.negative_prompt,
        seed=prompt.seed,
        cfgs=prompt.cfgs,
        size=prompt.size,
    )


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image, whole or not at all, and create its folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    image.save(content, "PNG")
    write_whole(path, content.getvalue())


def read_samples(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's list of samples, without torn ones; only the last one for an image that was drawn twice."""
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    with suppress(OSError):
        for entry in objects_in(lines_of(run_dir / SAMPLES_LIST)):
            with suppress(ValueError, TypeError, KeyError):
                found[int(entry["step"]), int(entry["index"]), str(entry["prompt"])] = entry
    return list(found.values())
