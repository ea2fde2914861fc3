"""The plan of each epoch as a text file in the run's folder, for who wants to see it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.data.epoch import EpochPlan, EpochPlanner
from ed2.data.example import Example
from ed2.disk import write_whole
from ed2.training.state import Run, TrainState


@dataclass
class ScheduleJob:
    """Writes `ep00_batch_schedule.txt` and so on as each epoch begins."""

    run_dir: Path
    training: Run
    planner: EpochPlanner
    examples: Sequence[Example]

    def due(self, state: TrainState) -> bool:
        """Whether an epoch has ended and another follows."""
        return state.epoch_ended and not self.training.finished

    def run(self, state: TrainState) -> None:
        """Write the epoch that `state` is in."""
        lines = schedule_lines(self.planner.plan(state.epoch), self.examples, state.step - state.position + 1)
        text = "step\tbatch\tsize\tvisit\timage\n" + "".join(f"{line}\n" for line in lines)
        write_whole(self.run_dir / f"ep{state.epoch:02d}_batch_schedule.txt", text.encode("utf-8"))


def schedule_lines(plan: EpochPlan, examples: Sequence[Example], first_step: int) -> Iterator[str]:
    """Give a line for each showing: step, batch within it, size, which showing in this epoch, and the image."""
    for step, batches in enumerate(plan, first_step):
        for number, batch in enumerate(batches, 1):
            size = f"{batch.bucket[0]}x{batch.bucket[1]}"
            for visit in batch.visits:
                yield f"{step}\t{number}\t{size}\t{visit.repeat + 1}\t{examples[visit.example].key}"
