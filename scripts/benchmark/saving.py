"""A checkpoint: how long the loop is blocked, what all of it takes, and whether its bytes depend on the way."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ed2.app.build import build
from ed2.app.jobs import MainContext, make_saver
from ed2.app.resolve import resolve
from ed2.app.runs.folder import RunFolder, make_run_folder
from ed2.checkpoint.background import BackgroundSaver
from ed2.checkpoint.identity import read_manifest
from ed2.checkpoint.optimizer_state import flatten_state
from ed2.checkpoint.snapshot import bytes_to_copy
from ed2.events import CheckpointSaved, Event, EventBus, Warned
from ed2.models.base import trained_parts
from ed2.ranks.base import Ranks
from ed2.training.controls import Controls
from ed2.training.loop import optimizer_step
from ed2.training.state import Run
from scripts.benchmark.fixtures import make_wide_base, settings
from scripts.benchmark.rows import Row, Size, cpu_seconds
from tests.tiny import make_images


def saving_rows(folder: Path, size: Size) -> list[Row]:
    """Save by turns beside a thread and without a copy, and clone the same tensors."""
    saved: list[CheckpointSaved] = []

    def listen(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            saved.append(event)
        if isinstance(event, Warned):
            raise RuntimeError(event.text)

    bus = EventBus([listen])
    run, saver = _built(folder, size.saved_width, bus)
    bare, blocked, whole, waiting = [], [], [], []
    saver.start(run)  # the first one of a run also makes room
    saver.join()
    for _ in range(size.rounds):
        bare.append(cpu_seconds(lambda: _clone(run)))
        run.state.step += 1
        blocked.append(cpu_seconds(lambda: _snapshot(saver, run)))
        whole.append(cpu_seconds(lambda: _save(saver, run)))
        run.state.step += 1
        waiting.append(cpu_seconds(lambda: bus.emit(saver.saver.save(run))))
    if len({_hashes(event.path) for event in saved if event.path.exists()}) != 1:
        raise RuntimeError("Checkpoints of the same step differ.")
    gigabytes = f"{bytes_to_copy(run) / 1e9:.1f} GB"
    return [
        Row.of("loop blocked by a save / bare clone of the same tensors", "CPU s", blocked, bare, goal=0.6),
        Row.of(f"whole save of {gigabytes}", "CPU s", whole, goal=5),
        Row.of(f"whole save of {gigabytes}, where memory is short", "CPU s", waiting),
    ]


def _built(folder: Path, width: int, bus: EventBus) -> tuple[Run, BackgroundSaver]:
    """A run of a model of one large network, after one step."""
    make_wide_base(folder / "base", width)
    make_images(folder / "images", [(64, 64)])
    spec = resolve(
        settings(folder, resolution=64, batch_size=1, keep_last=2), None, bus=EventBus(), controls=Controls()
    )
    run_dir = make_run_folder(spec)
    RunFolder(run_dir, bus, renew_lock=lambda: None).describe(spec)
    saver = BackgroundSaver(make_saver(spec, run_dir, bus, before_save=lambda step: None))
    run = build(spec, MainContext.of(spec, saver, Controls(), Ranks(), time.monotonic()))
    optimizer_step(run, next(iter(run.data.groups(0))))
    run.state.step = 1
    return run, saver


def _clone(run: Run) -> None:
    """Copy what a snapshot copies, all of which is alive at the end."""
    copies = [tensor.clone() for part in trained_parts(run.model).values() for tensor in part.saved().values()]
    for optimizer in run.optimizers:
        copies += flatten_state(optimizer, torch.clone)[0].values()
    del copies


def _snapshot(saver: BackgroundSaver, run: Run) -> None:
    """What the loop waits for, without the thread that writes it."""
    saver.copy(run)


def _save(saver: BackgroundSaver, run: Run) -> None:
    saver.start(run)
    saver.join()


def _hashes(checkpoint: Path) -> tuple[str, ...]:
    """The hashes of a checkpoint's tensor files."""
    files = read_manifest(checkpoint)["files"]
    return tuple(record["sha256"] for name, record in sorted(files.items()) if name.endswith(".safetensors"))
