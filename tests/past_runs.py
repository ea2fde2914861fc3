"""A run's folder as an ended run leaves it, and its samples, made without training."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ed2.app.reporters.jsonl import JsonlReporter
from ed2.checkpoint.identity import STATE_FILE, TRAINING_STATE
from ed2.events import MetricsLogged, RunEnded, RunStarted, Sample
from ed2.sampling.images import list_sample, write_image
from ed2.sampling.prompt import Prompt

ENDED = {
    "done": RunEnded(40, "done", "all epochs are done", 1.0),
    "stopped": RunEnded(9, "stopped", "saved", 1.0),
    "killed": MetricsLogged(52, {"loss/log_step": 0.1}),
}


def past_run(logdir: Path, ended: str, checkpoint: str = "") -> Path:
    """A run of 4 epochs in its folder: with no checkpoint, one of `weights` alone, or a `whole` one."""
    run = logdir / f"{ended}{checkpoint}_20260101-000000"
    run.mkdir(parents=True)
    reporter = JsonlReporter(run)
    for event in (RunStarted(0, "tiny", run, 40, 0, 4, 10, "the CPU", {}), ENDED[ended]):
        reporter(event)
    reporter.close()
    if checkpoint:
        folder = run / "ckpts" / "last-tiny-ep03-gs00040"
        (folder / TRAINING_STATE).mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        if checkpoint == "whole":
            (folder / TRAINING_STATE / STATE_FILE).write_text("{}")
    return run


def write_sample(run_dir: Path, *, step: int, prompt: Prompt, tiles: Sequence[Image.Image]) -> Sample:
    """Write all images of a prompt, and a line in the run's list of samples. Raises OSError."""
    for place, image in enumerate(tiles):
        write_image(run_dir, step=step, prompt=prompt, place=place, image=image)
    return list_sample(run_dir, step=step, prompt=prompt)
