"""A card's readings beside the plan: measured at the right moments, kept, learnt from, and used by the next plan."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from ed2.app.measured import Corrections, PeakWatch, SpillWatch
from ed2.app.reporters.log import describe
from ed2.app.run_view import RunView
from ed2.events import Event, MemoryMeasured, MetricsLogged, PhaseChanged, SamplesMade, StepDone, Warned
from ed2.settings.schema import Settings
from ed2.training.state import Run
from ed2.ui.html import memory_html
from ed2.vram.overhead import Reading
from ed2.vram.plan import plan_memory
from ed2.vram.sampler import CardPeaks, MemorySampler, MemoryUse, Share
from ed2.vram.shapes import shape_of
from tests.training.steps import run_on

CARD = "NVIDIA GeForce RTX 3060"
PLANNED = {"encoding": 5.0, "forward": 9.0, "backward": 9.4, "optimizer": 8.0, "sampling": 7.0, "saving": 6.0}


@dataclass
class Counters:
    """The counters of a card with given numbers; a reset is noted."""

    allocated: float = 9.6
    resets: int = 0
    read_at: list[int] = field(default_factory=list)

    def reset(self) -> None:
        self.resets += 1

    def read(self, planned_gb: float) -> Reading:
        self.read_at.append(self.resets)
        return Reading(planned_gb, self.allocated, self.allocated + 0.4, 0.6)


@pytest.fixture
def run(sd1: Path) -> Run:
    return run_on(sd1, images_per_step=1)


def watched(run: Run, file: Path, counters: Counters) -> list[Event]:
    told: list[Event] = []
    run.bus.subscribe(told.append)
    run.bus.subscribe(PeakWatch(run, PLANNED, counters, CARD, Corrections(file)))  # type: ignore[arg-type]
    return told


def steps(run: Run, first: int, count: int) -> None:
    for step in range(first, first + count):
        run.bus.emit(StepDone(step, 0, 1))


def test_the_third_step_and_the_next_samples_are_measured_once_and_used_by_the_next_plan(
    run: Run, tmp_path: Path
) -> None:
    counters, file = Counters(), tmp_path / "user" / "cards.json"
    told = watched(run, file, counters)
    run.bus.emit(PhaseChanged(0, "sampling"))
    run.bus.emit(SamplesMade(0, (), 1.0))  # before there is an optimizer: tells nothing of later ones
    run.bus.emit(PhaseChanged(0, "training"))
    steps(run, 1, 2)
    assert not counters.read_at
    steps(run, 3, 4)
    run.bus.emit(PhaseChanged(6, "sampling"))
    counters.allocated = 6.5
    run.bus.emit(SamplesMade(6, (), 1.0))
    run.bus.emit(SamplesMade(9, (), 1.0))
    training, sampling = (event for event in told if isinstance(event, MemoryMeasured))
    assert (training.step, training.what, training.measured_gb) == (3, "training", pytest.approx(10.6))
    assert (training.low_gb, training.planned_gb) == (pytest.approx(9.4 * 1.02 + 0.35), pytest.approx(9.4 * 1.05 + 0.5))
    assert (sampling.step, sampling.what) == (6, "sampling")
    assert counters.read_at == [3, 4]  # each since its own reset

    known = Corrections(file).overhead(CARD)
    assert known is not None and known.allocated == pytest.approx(9.6 / 9.4)
    assert Corrections(file).overhead("another card") is None
    again = run_on_again(run)
    told = watched(again, file, Counters())
    steps(again, 1, 3)
    (learnt,) = (event for event in told if isinstance(event, MemoryMeasured))
    assert learnt.planned_gb == pytest.approx(10.6)


def run_on_again(run: Run) -> Run:
    return replace(run, bus=type(run.bus)())


def test_a_run_that_reduced_its_memory_is_not_learned_from(run: Run, tmp_path: Path) -> None:
    told = watched(run, tmp_path / "cards.json", Counters())
    run.state.at_once = 2
    steps(run, 1, 5)
    assert not [event for event in told if isinstance(event, MemoryMeasured)]
    assert not (tmp_path / "cards.json").exists()


def test_samples_between_steps_postpone_the_measurement(run: Run, tmp_path: Path) -> None:
    told = watched(run, tmp_path / "cards.json", Counters())
    steps(run, 1, 2)
    run.bus.emit(PhaseChanged(2, "sampling"))
    run.bus.emit(PhaseChanged(2, "training"))
    steps(run, 3, 3)
    assert [event.step for event in told if isinstance(event, MemoryMeasured)] == [4]


def test_a_damaged_file_of_readings_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "cards.json"
    file.write_text('{"a card": [{"planned')
    assert Corrections(file).overhead(CARD) is None
    file.write_text('{"a card": [{"of_another": "version"}]}')
    Corrections(file).add(CARD, Reading(9.4, 9.6, 10.0, 0.6))
    assert Corrections(file).overhead(CARD) is not None


def test_planned_and_measured_memory_are_in_the_log_and_on_the_page() -> None:
    event = MemoryMeasured(3, "training", 10.3, 9.9, 11.2, 10.1)
    text = "Peak GPU memory while training: planned 10.3 GB (9.9 to 11.2), measured 10.1 GB."
    assert describe(event) == text
    view = RunView()
    view(event)
    assert text in memory_html(MemoryUse(Share(16.0, 1.0, 2.0)), view.snapshot().peaks)
    assert any(text in line for line in view.snapshot().log)


def test_a_spill_is_reported_once_and_other_delays_are_not(run: Run) -> None:
    told: list[Event] = []
    now = 0.0
    run.bus.subscribe(told.append)
    run.bus.subscribe(SpillWatch(run, lambda: 0.99, lambda: now))

    def step(count: int, seconds: float, images: int = 4) -> None:
        nonlocal now
        for _ in range(count):
            now += seconds
            run.bus.emit(StepDone(1, 0, images))

    step(20, 0.2, images=1)
    step(30, 0.5)
    for _ in range(6):
        run.bus.emit(PhaseChanged(1, "sampling"))
        step(1, 60.0)
        run.bus.emit(MetricsLogged(1, {}))
        step(1, 0.5)
    run.state.at_once = 1  # smaller parts take longer by right
    step(30, 2.0)
    assert not [event for event in told if isinstance(event, Warned)]
    step(20, 9.0)
    (warning,) = [event for event in told if isinstance(event, Warned)]
    assert "4.5 times as long" in warning.text and "Sysmem Fallback Policy" in warning.text


def test_without_a_gpu_only_system_memory_is_read() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    use = MemorySampler().read()
    assert use.cards == ()
    assert 0 < use.pc.own < use.pc.total


@pytest.mark.gpu
def test_a_gpu_reports_its_peaks_and_this_programs_share() -> None:
    peaks = CardPeaks(0)
    block = torch.ones(2**28, device="cuda")  # 1 GiB
    peaks.reset()
    reading = peaks.read(1.0)
    assert 1.0 <= reading.allocated_gb <= reading.reserved_gb
    use = MemorySampler().read()
    assert use.cards and use.cards[0].share.own >= 1.0
    assert 0 < peaks.fullness() < 1
    del block


def test_a_plan_uses_what_was_learned(tmp_path: Path) -> None:
    Corrections(tmp_path / "cards.json").add(CARD, Reading(9.4, 9.6, 10.0, 0.6))
    known = Corrections(tmp_path / "cards.json").overhead(CARD)
    plan = plan_memory(Settings(), shape_of("sd1", {}), overhead=known)
    assert plan.is_measured
    assert plan.high_gb - plan.low_gb < 0.06 * plan.expected_gb
