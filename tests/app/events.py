"""Events of a made-up run."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    RunStarted,
    Sample,
    SamplesMade,
    SingleFileChecked,
    StepDone,
    Warned,
)

FIGURES = {"loss/log_step": 0.1234, "hyperparameter/lr unet": 1e-6, "performance/images per second": 4.5}


def started(run_dir: Path, step: int = 0) -> RunStarted:
    return RunStarted(
        step, "demo", run_dir, 20, step // 10, 2, 18, "cpu", {"lr": 1e-6, "data_root": ["a"]}, ("Note one.",)
    )


def samples(run_dir: Path, step: int) -> SamplesMade:
    made = []
    for index in range(2):
        path = run_dir / "samples" / f"gs{step:05d}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + index, 20), (step, 50, 90)).save(path)
        made.append(Sample(index, path, "a cat", "", 5, (1.0, 4.0, 7.0), (64, 64), (path,)))
    return SamplesMade(step, tuple(made), 1.5)


def events_of(run_dir: Path, first: int = 1) -> Iterator[Event]:
    yield started(run_dir, first - 1)
    for step in range(first, 21):
        yield StepDone(step, (step - 1) // 10, 4)
        if step % 5 == 0:
            yield MetricsLogged(step, FIGURES)
        if step % 10 == 0:
            yield EpochEnded(step, step // 10 - 1, 0.2, 0.5)
            yield PhaseChanged(step, "sampling", "2 prompts")
            yield samples(run_dir, step)
            yield PhaseChanged(step, "training")
    yield Warned(20, "An image \x1b[31mis\x1b[0m broken.")
    checkpoint = run_dir / "ckpts" / "last-demo-ep01-gs00020"
    single_file, opens_as = run_dir / "last.safetensors", "SD 1.x, epsilon"
    yield CheckpointSaved(20, 1, "last", checkpoint, single_file, 6_480_079, 0.4, opens_as)
    yield SingleFileChecked(20, single_file, f"opens as {opens_as}; prediction equal")
    yield RunEnded(20, "done", "", 75.0, checkpoint, single_file)
