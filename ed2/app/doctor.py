"""`python -m ed2 doctor`: tries what training needs on this computer, each on a small scale.

Attention forward and backward, a step of 8-bit Adam, a training of the demo, the speed of the disk.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ed2.app.command_line import SWITCH, CommandSyntax
from ed2.app.libraries import read_libraries
from ed2.curve_names import LOSS
from ed2.errors import Ed2Error, printable
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER

PRESET = PROGRAM_DIR / "presets" / "demo.json"
WRITTEN_MB = 256
SLOW_MB_PER_SECOND = 50
"""Below this a checkpoint of SD 1.5 takes minutes to write."""
CHECKPOINT_GB = 8.2


@dataclass
class Findings:
    """Facts by name, and lines on problems, each followed by what to do."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def fail(self, name: str, reason: str, fix: str) -> None:
        """Note that something does not work."""
        self.facts[name] = "does not work"
        self.problems += [f"{name} does not work: {printable(reason, 300)}", f"  {fix}"]


def try_attention(found: Findings) -> None:
    """Try PyTorch's attention, and xformers where it is installed, forward and backward."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from ed2.models.compute import choose_device, choose_dtype, xformers_problem

    device = choose_device("auto")
    dtype = choose_dtype(device, amp=True, amp_dtype=None) or torch.float32
    try:
        query = torch.ones(1, 2, 64, 40, device=device, dtype=dtype, requires_grad=True)
        scaled_dot_product_attention(query, query, query).sum().backward()
        if query.grad is None or not bool(torch.isfinite(query.grad).all()):
            raise RuntimeError("its gradient is not finite")
    except RuntimeError as error:
        found.fail("attention", str(error), "Update the driver of the GPU. Until then: --attn_type slice")
        return
    found.facts["attention"] = f"works on {_name_of(device)} in {str(dtype).removeprefix('torch.')}"
    if find_spec("xformers"):
        problem = xformers_problem(device)
        found.facts["xformers"] = f"is not used ({problem})" if problem else "works"


def _name_of(device: object) -> str:
    import torch

    return torch.cuda.get_device_name() if str(device).startswith("cuda") else "the CPU"


def try_adam(found: Findings) -> None:
    """Try a step of 8-bit Adam on weights that are large enough for its 8-bit state."""
    import torch

    from ed2.models.compute import choose_device
    from ed2.training.optimizer_factories import OptimizerOptions, adamw8bit

    name = "8-bit Adam"
    try:
        weights = torch.nn.Parameter(torch.zeros(64, 128, device=choose_device("auto")))
        weights.grad = torch.ones_like(weights)
        adamw8bit([weights], OptimizerOptions(lr=0.01)).step()
        changed = weights.detach().abs().mean().item()
        if not 0.001 < changed < 0.1:  # the first step of Adam is the learning rate
            raise RuntimeError(f"a step of 0.01 changed the weights by {changed:g}")
    except (Ed2Error, RuntimeError, OSError, AttributeError) as error:
        found.fail(name, str(error), "Train with --optimizer adamw, which needs more memory.")
        return
    found.facts[name] = f"works on {_name_of(weights.device)}"


def try_training(found: Findings) -> None:
    """Train the demo for one epoch of its images, and save nothing."""
    from ed2.app.run import run_training
    from ed2.events import Event, EventBus, MetricsLogged
    from ed2.training.controls import Controls

    name, losses, bus = "training", list[float](), EventBus()

    def watch(event: Event) -> None:
        if isinstance(event, MetricsLogged):
            losses.append(event.values.get(LOSS, math.nan))

    bus.subscribe(watch)
    with tempfile.TemporaryDirectory() as folder:
        values = {"logdir": folder, "max_epochs": 1, "log_step": 1, "sample_prompts": "", "no_save_ckpt": True}
        start = time.monotonic()
        try:
            ended = run_training(values, PRESET, bus=bus, controls=Controls())
        except Ed2Error as error:
            found.fail(name, str(error), "See docs/troubleshooting.md for the words of this message.")
            return
    if ended.phase != "done" or not losses or not all(map(math.isfinite, losses)):
        found.fail(name, ended.reason or "the loss is not finite", "See docs/troubleshooting.md.")
        return
    found.facts[name] = f"works: {len(losses)} steps of the demo, {time.monotonic() - start:.1f} s with loading"


def try_disk(found: Findings, folder: Path = PROGRAM_DIR, *, written_mb: int = WRITTEN_MB) -> None:
    """Write a file in the program's folder through to the disk, as a checkpoint is written."""
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.monotonic()
            for _ in range(written_mb):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = written_mb / max(1e-6, time.monotonic() - start)
    except OSError as error:
        found.fail("disk", error.strerror or str(error), "Move the program to a folder that you can write to.")
        return
    found.facts["disk"] = f"writes {speed:,.0f} MB a second"
    if speed < SLOW_MB_PER_SECOND:
        minutes = CHECKPOINT_GB * 1024 / speed / 60
        found.problems += [
            f"The disk is slow: a checkpoint takes about {minutes:.0f} minutes to write.",
            "  Set logdir and save_ckpt_dir to a faster disk, or save less often.",
        ]


def examine() -> Findings:
    """Try everything."""
    read_libraries()
    found = Findings()
    for attempt in (try_attention, try_adam, try_training, try_disk):
        attempt(found)
    return found


def _report(given: argparse.Namespace) -> int:
    found = examine()
    if given.json:
        sys.stdout.write(json.dumps({"facts": found.facts, "problems": found.problems}))
    else:
        lines = [f"{name:<11}{fact}" for name, fact in found.facts.items()] + found.problems
        sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(found.problems))


COMMAND = CommandSyntax(
    use=f"{LAUNCHER} doctor",
    help="[--json]\n\nTry attention, 8-bit Adam, a training step and the disk on this computer.",
    flags={"json": SWITCH},
    perform=_report,
)
