#!/usr/bin/env python3
"""Make docs/before-after.png: the demo's samples before and after its training, and a training image.

    python scripts/before_after.py [target] [--run FOLDER]

Trains the embedded demo, which takes minutes, or shows the finished run in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ed2.sampling.lettering import Lettering  # noqa: E402
from ed2.sampling.sheet import wrapped  # noqa: E402

TARGET = ROOT / "docs" / "before-after.png"
SIDE, GAP, LINE, MARGIN, TOP = 192, 12, 22, 84, 56
INK = (40, 40, 40)
CFG = 4.0
PICTURES = ROOT / "ed2" / "demo" / "pictures"
SHOWN = "The embedded demo: a model of 6.5 MB that ships with the program, at 64 x 64 pixels. No real model is shown."


def train(folder: Path) -> Path:
    """Train the demo, and return the folder of its run."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(ROOT / "presets" / "demo.json")]
    subprocess.run([*command, "--logdir", str(folder), "--no_save_ckpt"], check=True)
    return next(path for path in folder.iterdir() if (path / "samples.jsonl").is_file())


def samples(run: Path) -> tuple[list[str], list[list[Image.Image]]]:
    """The prompts of a run, and for its first and last step one image each."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts, rows = [], []
    for step in (min(line["step"] for line in lines), max(line["step"] for line in lines)):
        drawn = sorted((line for line in lines if line["step"] == step), key=lambda line: line["index"])
        prompts = [line["prompt"] for line in drawn]
        rows.append([tile(run, line) for line in drawn])
    return prompts, rows


def tile(run: Path, line: dict[str, Any]) -> Image.Image:
    """The image of a prompt at CFG 4, enlarged without smoothing."""
    with Image.open(run / line["paths"][line["cfgs"].index(CFG)]) as drawn:
        return drawn.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def picture(run: Path) -> Image.Image:
    """The whole image, with its words."""
    prompts, rows = samples(run)
    columns = [MARGIN + column * (SIDE + GAP) for column in range(len(prompts) + 1)]
    size = (columns[-1] + SIDE + GAP, TOP + len(rows) * (SIDE + GAP) + LINE)
    sheet = Image.new("RGB", size, "white")
    draw, letters = ImageDraw.Draw(sheet), Lettering(14)
    for row, (name, images) in enumerate(zip(("before", "after"), rows, strict=True)):
        top = TOP + row * (SIDE + GAP)
        letters.draw(draw, (GAP, top + SIDE / 2), name, INK, anchor="lm")
        for left, image in zip(columns, images, strict=False):
            sheet.paste(image, (left, top))
    for left, prompt in zip(columns, [*prompts, "one of the 24 training images"], strict=True):
        for number, line in enumerate(wrapped(prompt, letters, SIDE)):
            letters.draw(draw, (left, GAP / 2 + number * LINE), line, INK)
    with Image.open(sorted(PICTURES.glob("*.png"))[0]) as one:
        example = one.convert("RGB").resize((SIDE, SIDE * one.height // one.width))
    sheet.paste(example, (columns[-1], TOP))
    letters.draw(draw, (MARGIN, size[1] - LINE), SHOWN, INK)
    return sheet


def main() -> int:
    """Make the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", type=Path, default=TARGET)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = picture(options.run or train(Path(folder)))
    made.quantize(256).save(options.target, optimize=True)
    print(options.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
