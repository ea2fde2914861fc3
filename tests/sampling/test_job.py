from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ed2.events import Event, EventBus, PhaseChanged, Progressed, SampleDrawn, SamplesMade, Warned
from ed2.models.families.sd import StableDiffusion
from ed2.sampling import job as job_module
from ed2.sampling.images import read_samples
from ed2.sampling.job import SampleJob
from ed2.sampling.prompts import PromptFile
from ed2.training.controls import Controls
from ed2.training.state import TrainState


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def job(epsilon_model: StableDiffusion, tmp_path: Path, events: list[Event]) -> SampleJob:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return SampleJob(
        model=epsilon_model,
        prompts=PromptFile(path, seed=5, resolution=16, multiple=8),
        run_dir=run_dir,
        bus=EventBus([events.append]),
        controls=Controls(),
        is_over=lambda state: state.step >= 10,
        sample_steps=4,
        num_steps=1,
    )


def phases(events: list[Event]) -> list[str]:
    return [event.phase for event in events if isinstance(event, PhaseChanged)]


def warnings(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Warned)]


def test_samples_are_due_at_the_interval_and_after_the_last_step(job: SampleJob) -> None:
    assert [step for step in range(1, 11) if job.due(TrainState(step=step))] == [4, 8, 10]


def test_samples_are_drawn_listed_and_reported(job: SampleJob, events: list[Event]) -> None:
    made = job.perform(TrainState(step=4))
    assert isinstance(made, SamplesMade)
    assert made.step == 4
    assert [sample.path.relative_to(job.run_dir).as_posix() for sample in made.samples] == [
        "samples/gs00004/00-cfg4.png",
        "samples/gs00004/01-cfg4.png",
    ]
    assert all(sample.path.is_file() for sample in made.samples)
    assert [entry["prompt"] for entry in read_samples(job.run_dir)] == ["a cat", "a dog"]
    assert phases(events) == ["sampling", "training"]
    assert not warnings(events)


def test_each_image_is_shown_as_soon_as_it_is_drawn(job: SampleJob, events: list[Event]) -> None:
    existing: list[bool] = []
    job.bus.subscribe(lambda e: existing.append(e.sample.paths[-1].is_file()) if isinstance(e, SampleDrawn) else None)
    made = job.perform(TrainState(step=4))
    drawn = [event.sample for event in events if isinstance(event, SampleDrawn)]
    assert [(sample.index, len(sample.paths)) for sample in drawn] == [
        (n, count) for n in (0, 1) for count in (1, 2, 3)
    ]
    assert existing == [True] * 6
    assert made and [sample for sample in drawn if len(sample.paths) == 3] == list(made.samples)


@pytest.mark.parametrize(
    ("at_once", "told"),
    [
        (1, ["drawing sample 1 of 3", "drawing sample 2 of 3", "drawing sample 3 of 3"]),
        (2, ["drawing samples 1 to 2 of 3", "drawing sample 3 of 3"]),
        (3, ["drawing 3 samples"]),
    ],
)
def test_each_denoising_step_of_a_batch_is_counted(
    job: SampleJob, events: list[Event], at_once: int, told: list[str]
) -> None:
    job.prompts.path.write_text("a cat\na dog\na cow")
    replace(job, batch_size=at_once, num_steps=2).perform(TrainState(step=4))
    counted = [(event.doing, event.place, event.total) for event in events if isinstance(event, Progressed)]
    steps = 2 * 3  # of each of three CFG values
    assert counted == [(f"{text}: denoising step", place, steps) for text in told for place in range(1, steps + 1)]


def test_samples_before_the_first_step_are_drawn_only_in_a_new_run(job: SampleJob) -> None:
    assert job.at_start(TrainState(step=4)) is None
    made = job.at_start(TrainState())
    assert made is not None
    assert made.samples[0].path.parent.name == "gs00000"


def test_the_same_step_gives_the_same_files(job: SampleJob) -> None:
    made = [job.perform(TrainState(step=4)), job.perform(TrainState(step=4))]
    first, second = ([sample.path.read_bytes() for sample in one.samples] for one in made if one)
    assert first == second


def test_without_prompts_there_are_no_samples_and_one_report(job: SampleJob, events: list[Event]) -> None:
    job.prompts.path.unlink()
    assert job.perform(TrainState(step=4)) is None
    assert job.perform(TrainState(step=8)) is None
    assert len(warnings(events)) == 1
    assert phases(events) == []


def test_nothing_is_drawn_after_a_stop(job: SampleJob, events: list[Event]) -> None:
    job.controls.stop()
    assert job.perform(TrainState(step=4)) is None
    assert phases(events) == []
    assert not (job.run_dir / "samples").exists()


def test_a_stop_while_sampling_keeps_what_is_done(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_stop(*args: object, **named: object) -> object:
        job.controls.stop()
        return write(*args, **named)

    write: Callable[..., object] = job_module.list_sample
    monkeypatch.setattr(job_module, "list_sample", write_and_stop)
    made = job.perform(TrainState(step=4))
    assert made is not None
    assert [sample.index for sample in made.samples] == [0]
    assert phases(events) == ["sampling", "stopping"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("shapes differ\nlong trace"), "shapes differ"),
        (OSError(28, "No space left"), "the disk is full"),
        (ValueError("x"), "x"),
    ],
)
def test_a_failure_is_reported_and_training_continues(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(job_module, "list_sample", fail)
    assert job.perform(TrainState(step=4)) is None
    (text,) = warnings(events)
    assert f"({reason})" in text
    assert "step 4" in text
    assert "\n" not in text
    assert phases(events) == ["sampling", "training"]
    monkeypatch.undo()
    assert job.perform(TrainState(step=8)) is not None


def test_samples_before_a_failure_count(job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_the_second(*args: object, **named: object) -> object:
        if named["prompt"].index == 1:
            raise OSError("the disk is gone")
        return write(*args, **named)

    write: Callable[..., object] = job_module.list_sample
    monkeypatch.setattr(job_module, "list_sample", fail_on_the_second)
    made = job.perform(TrainState(step=4))
    assert made is not None
    assert len(made.samples) == 1
    assert "disk is gone" in warnings(events)[0]


def too_little_for(job: SampleJob, monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """Let the model run out of memory on more than so many latent cells in one pass."""
    predict = job.model.predict

    def checked(noisy: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if noisy.shape[0] * noisy.shape[2] * noisy.shape[3] > cells:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return predict(noisy, *rest)

    monkeypatch.setattr(job.model, "predict", checked)


def test_running_out_of_memory_means_fewer_prompts_at_a_time_and_the_same_images(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job.perform(TrainState(step=4))
    assert wanted is not None
    images = [sample.path.read_bytes() for sample in wanted.samples]
    job.batch_size = 2
    too_little_for(job, monkeypatch, cells=2 * 4 * 4)  # one prompt with and without guidance
    made = job.perform(TrainState(step=8))
    assert made is not None
    assert [sample.path.read_bytes() for sample in made.samples] == images
    assert warnings(events) == [
        "Out of memory while drawing the samples of step 8: 1 prompt at a time from now on. Training continues."
    ]
    events.clear()
    assert job.perform(TrainState(step=12)) is not None
    assert not warnings(events)


def test_a_prompt_too_large_is_drawn_at_half_its_size_and_one_larger_still_is_left_out(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    job.prompts.path.write_text('{"samples": [{"prompt": "a cat"}, {"prompt": "a dog", "size": [64, 64]}]}')
    job.prompts = replace(job.prompts, path=job.prompts.path.rename(job.prompts.path.with_suffix(".json")))
    too_little_for(job, monkeypatch, cells=2 * 2 * 2)
    made = job.perform(TrainState(step=4))
    assert made is not None
    assert [(sample.index, sample.size) for sample in made.samples] == [(0, (8, 8))]
    (text,) = warnings(events)
    assert "half the size from now on, prompt 2 left out" in text


def test_prompts_that_take_long_are_said_once_with_their_time(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1_000_000, 200))
    monkeypatch.setattr(job_module.time, "monotonic", lambda: float(next(clock)))
    for step in (0, 4):
        job.perform(TrainState(step=step))
    (told,) = warnings(events)
    assert told.startswith("2 samples take about ") and "min each time, every 4 steps" in told
