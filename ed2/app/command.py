"""The command line program: `train.py`, which the launcher runs as `./launch.sh train`."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ed2.app.libraries import read_libraries, require_temporary_folder
from ed2.app.ranks.launcher import BARE, LIFELINE, ORDERS, launch_ranks
from ed2.app.run_settings import effective_settings
from ed2.app.signals import STOPPING, stop_with_parent, stopping_on_signals
from ed2.errors import Ed2Error, StopRequested
from ed2.models.families.facts import trainable_titles
from ed2.ranks.place import WORLD_SIZE, RankPlace
from ed2.settings import cli
from ed2.settings.files import TRAIN_COMMAND

if TYPE_CHECKING:
    from ed2.app.checks.check import CheckResult
    from ed2.app.suggest.answer import Answer
    from ed2.events import EventBus
    from ed2.ranks.base import Ranks
    from ed2.training.controls import Controls

EXIT_CODES = {"done": 0, "failed": 1}

NOTHING_TO_SAVE = "Stopping; training has not started, so there is nothing to save. Press again to quit immediately."
HOW_TO_START = f"""\
EveryDream with a face: train Stable Diffusion on your own images.

  {TRAIN_COMMAND} --data_root IMAGES --resume_ckpt MODEL --project_name NAME
      IMAGES    a folder of images with captions (cat.jpg and cat.txt, or "a cat_1.jpg")
      MODEL     an {trainable_titles()} model: a diffusers folder, a single file or the name of a
                downloaded model; or a checkpoint to resume

  {TRAIN_COMMAND} --config presets/demo.json    run the demo, which needs no GPU
  {TRAIN_COMMAND} --check --data_root IMAGES    show what a run would do, and what is wrong with the images
  {TRAIN_COMMAND} --suggest --vram_gb 12        show which settings suit a 12 GB card and your images
  {TRAIN_COMMAND} --test_resume --data_root ... test whether a killed run resumes to the same bytes
  {TRAIN_COMMAND} --help                        list every setting

--resolution sets the training resolution; every image keeps its shape:
"""


def main(argv: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 failed, 2 wrong settings, 3 nothing to train on, 128 + signal when stopped and saved.
    """
    try:
        if not argv:
            return _how_to_start()
        command = cli.parse(argv)
        if command.help:
            print(cli.help_text())
            return 0
        place = RankPlace.of()
        if place.rank:  # the first process checks, reports and decides
            return _follow(place) if command.trains else 0
        if os.environ.get(LIFELINE) == ORDERS:
            return _train_for_parent(place)
        _require_valid(command)
        return _done(command, argv, place)
    except Ed2Error as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    except StopRequested as stop:
        print("Stopped before training started.", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 128 + signal.SIGINT


def _require_valid(command: cli.CommandLine) -> None:
    from ed2.app.checks.start_checks import require_valid

    require_valid(command)  # before the libraries, which take seconds
    if command.trains:
        from ed2.app.on_end import OnEnd

        OnEnd(command.on_end).require_valid()


def _done(command: cli.CommandLine, argv: Sequence[str], place: RankPlace) -> int:
    if command.suggest or (command.check and not command.test_steps):
        return _answer(command)
    if command.test_steps:
        return _test_resume(command, command.test_steps)
    if WORLD_SIZE not in os.environ:
        size = effective_settings(command.values, command.config).settings.run.num_processes
        if size > 1:
            return launch_ranks(argv, size)
    else:
        place.require_size(command.values.get("num_processes"))
    return _train(command, place)


def _how_to_start() -> int:
    from ed2.data.report import resolution_table

    print(HOW_TO_START)
    print(resolution_table())
    return 0


def _answer(command: cli.CommandLine) -> int:
    """Print what a run would do, or what is suggested for it."""
    answer: CheckResult | Answer
    if command.suggest:
        from ed2.app.suggest.answer import suggest_for_command

        answer = suggest_for_command(command.values, command.config, vram_gb=command.vram_gb)
    else:
        from ed2.app.checks.check import run_check

        answer = run_check(command.values, command.config, quiet=command.as_json, vram_gb=command.vram_gb)
    print(json.dumps(answer.as_object()) if command.as_json else answer.as_text())
    return 0


def _test_resume(command: cli.CommandLine, steps: int) -> int:
    require_temporary_folder()
    from ed2.app.resume_test.run import run_resume_test

    asked: list[int] = []
    with stopping_on_signals(asked.append, "Stopping: removing the files of the test."):
        try:
            result = run_resume_test(
                command.values,
                command.config,
                steps=steps,
                tell=lambda text: print(text, flush=True),
                should_stop=lambda: bool(asked),
            )
        except StopRequested:
            print("Stopped before there was an answer.", file=sys.stderr)
            return 128 + asked[0]
    print(result.as_text())
    return int(not result.is_same)


def _follow(place: RankPlace) -> int:
    read_libraries()
    from ed2.app.ranks.members import follow
    from ed2.ranks.group import Follower, join

    ranks = join(place)
    assert isinstance(ranks, Follower)
    return follow(ranks)


def _train_for_parent(place: RankPlace) -> int:
    read_libraries()
    from ed2.app.ranks.members import train_for_parent

    return train_for_parent(place)


def _train(command: cli.CommandLine, place: RankPlace) -> int:
    from ed2.app.on_end import OnEnd

    on_end = OnEnd(command.on_end)
    print("Starting: loading libraries ...", flush=True)
    read_libraries()
    from ed2.app.reporters.console import ConsoleReporter
    from ed2.app.run import run_training
    from ed2.events import Event, EventBus, RunStarted
    from ed2.training.controls import Controls

    controls, bus = Controls(), EventBus()
    begun: list[RunStarted] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            begun.append(event)

    def words() -> str:
        return STOPPING if begun else NOTHING_TO_SAVE

    with closing(ConsoleReporter()) as console, stopping_on_signals(controls.stop, words):
        bus.subscribe(watch)
        bus.subscribe(console)
        with on_end.following(bus), _ranks(place, bus, controls) as ranks:
            ended = run_training(command.values, command.config, bus=bus, controls=controls, ranks=ranks)
    return EXIT_CODES.get(ended.phase, 128 + ended.signal_number if ended.signal_number else 0)


@contextmanager
def _ranks(place: RankPlace, bus: "EventBus", controls: "Controls") -> "Iterator[Ranks | None]":
    """The processes of the run, of which this is the first; None if it is the only one. Raises RankError."""
    if os.environ.get(LIFELINE) == BARE:
        stop_with_parent(controls.stop, bus)
    if place.size == 1:
        yield None
        return
    from ed2.app.ranks.members import led_ranks

    with led_ranks(place, bus, controls) as ranks:
        yield ranks
