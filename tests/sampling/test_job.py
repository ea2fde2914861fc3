from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ed2.events import Event, EventBus, PhaseChanged, SamplesMade, Warned
from ed2.models.sd import StableDiffusion
from ed2.sampling import job as job_module
from ed2.sampling.job import SampleJob
from ed2.sampling.pictures import read_samples
from ed2.sampling.prompts import PromptFile
from ed2.training.state import Controls, TrainState


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
        total_steps=10,
        sample_steps=4,
        num_steps=1,
    )


def phases(events: list[Event]) -> list[str]:
    return [event.phase for event in events if isinstance(event, PhaseChanged)]


def warnings(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Warned)]


def test_due_every_so_many_steps_and_after_the_last(job: SampleJob) -> None:
    assert [step for step in range(1, 11) if job.due(TrainState(step=step))] == [4, 8, 10]


def test_samples_are_made_listed_and_told(job: SampleJob, events: list[Event]) -> None:
    made = job.run(TrainState(step=4))
    assert isinstance(made, SamplesMade)
    assert made.step == 4
    assert [sample.path.relative_to(job.run_dir).as_posix() for sample in made.samples] == [
        "samples/gs00004/00.png",
        "samples/gs00004/01.png",
    ]
    assert all(sample.path.is_file() for sample in made.samples)
    assert [entry["prompt"] for entry in read_samples(job.run_dir)] == ["a cat", "a dog"]
    assert phases(events) == ["sampling", "training"]
    assert not warnings(events)


def test_before_the_first_step_only_where_a_run_begins(job: SampleJob) -> None:
    assert job.before_first_step(TrainState(step=4)) is None
    made = job.before_first_step(TrainState())
    assert made is not None
    assert made.samples[0].path.parent.name == "gs00000"


def test_the_same_step_gives_the_same_files(job: SampleJob) -> None:
    made = [job.run(TrainState(step=4)), job.run(TrainState(step=4))]
    first, second = ([sample.path.read_bytes() for sample in one.samples] for one in made if one)
    assert first == second


def test_no_prompts_make_no_samples_and_are_told_once(job: SampleJob, events: list[Event]) -> None:
    job.prompts.path.unlink()
    assert job.run(TrainState(step=4)) is None
    assert job.run(TrainState(step=8)) is None
    assert len(warnings(events)) == 1
    assert phases(events) == []


def test_nothing_is_drawn_after_a_stop(job: SampleJob, events: list[Event]) -> None:
    job.controls.stop()
    assert job.run(TrainState(step=4)) is None
    assert phases(events) == []
    assert not (job.run_dir / "samples").exists()


def test_a_stop_while_sampling_keeps_what_is_done(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_stop(*args: object, **named: object) -> object:
        job.controls.stop()
        return write(*args, **named)

    write: Callable[..., object] = job_module.write_sample
    monkeypatch.setattr(job_module, "write_sample", write_and_stop)
    made = job.run(TrainState(step=4))
    assert made is not None
    assert [sample.index for sample in made.samples] == [0]
    assert phases(events) == ["sampling", "stopping"]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ\nlong trace"), OSError(28, "No space left"), ValueError("x")]
)
def test_a_failure_is_told_and_the_training_goes_on(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(job_module, "write_sample", fail)
    assert job.run(TrainState(step=4)) is None
    (text,) = warnings(events)
    assert str(error).splitlines()[0] in text
    assert "step 4" in text
    assert "\n" not in text
    assert phases(events) == ["sampling", "training"]
    monkeypatch.undo()
    assert job.run(TrainState(step=8)) is not None


def test_samples_before_a_failure_count(job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_the_second(*args: object, **named: object) -> object:
        if named["prompt"].index == 1:
            raise OSError("the disk is gone")
        return write(*args, **named)

    write: Callable[..., object] = job_module.write_sample
    monkeypatch.setattr(job_module, "write_sample", fail_on_the_second)
    made = job.run(TrainState(step=4))
    assert made is not None
    assert len(made.samples) == 1
    assert "disk is gone" in warnings(events)[0]


def test_too_little_memory_means_fewer_prompts_at_a_time(
    job: SampleJob, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    job.batch_size = 2

    def no_memory(*args: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(job.model, "predict", no_memory)
    assert job.run(TrainState(step=4)) is None
    assert job.batch_size == 1
    assert "1 at a time" in warnings(events)[0]
    monkeypatch.undo()
    assert job.run(TrainState(step=8)) is not None
