"""Writes sample images, one for each CFG value of a prompt, and the list of all samples."""

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ed2.disk import append_whole, write_whole
from ed2.events import Sample
from ed2.sampling.prompt import Prompt
from ed2.small_files import lines_of, objects_in

SAMPLES_DIR = "samples"
SAMPLES_LIST = "samples.jsonl"


def image_name(index: int, place: int, cfgs: Sequence[float]) -> str:
    """The name of an image: `03.png`, or with several CFG values `03-cfg4.png`, or by place where two are alike."""
    labels = [f"{cfg:g}" for cfg in cfgs]
    if len(labels) == 1:
        return f"{index:02d}.png"
    label = labels[place] if labels.count(labels[place]) == 1 else f"{labels[place]}-{place + 1}"
    return f"{index:02d}-cfg{label}.png"


def sample_of(run_dir: Path, step: int, prompt: Prompt, count: int) -> Sample:
    """The sample of a prompt of which `count` images are drawn, at least one."""
    folder = run_dir / SAMPLES_DIR / f"gs{step:05d}"
    paths = [folder / image_name(prompt.index, place, prompt.cfgs) for place in range(count)]
    return Sample(
        index=prompt.index,
        path=paths[min(count - 1, len(prompt.cfgs) // 2)],
        prompt=prompt.prompt,
        negative_prompt=prompt.negative_prompt,
        seed=prompt.seed,
        cfgs=prompt.cfgs,
        size=prompt.size,
        paths=tuple(paths),
        trained=prompt.trained,
    )


def write_image(run_dir: Path, *, step: int, prompt: Prompt, place: int, image: Image.Image) -> Sample:
    """Write one image of a prompt, that of its CFG value number `place`; returns the sample so far.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    sample = sample_of(run_dir, step, prompt, place + 1)
    save_png(image, sample.paths[place])
    return sample


def list_sample(run_dir: Path, *, step: int, prompt: Prompt) -> Sample:
    """Add a prompt, all of whose images are written, to the run's list of samples.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    sample = sample_of(run_dir, step, prompt, len(prompt.cfgs))
    line = {
        "step": step,
        "index": prompt.index,
        "path": sample.path.relative_to(run_dir).as_posix(),
        "prompt": prompt.prompt,
        "negative_prompt": prompt.negative_prompt,
        "seed": prompt.seed,
        "cfgs": prompt.cfgs,
        "size": prompt.size,
        "paths": [path.relative_to(run_dir).as_posix() for path in sample.paths],
    }
    with (run_dir / SAMPLES_LIST).open("ab", buffering=0) as file:
        append_whole(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    return sample


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
