"""The shipped figures against a new trace of the real networks."""

import pytest

from ed2.vram.shapes import TracedRow, traced
from scripts.memory_trace.networks import blueprint, counts
from scripts.memory_trace.passes import Size, Variant, training
from scripts.memory_trace.record import USUAL_SIDES, step_of

CHECKPOINTED = Variant("half", "both", checkpointing=True)


def test_a_new_trace_of_sd15_gives_the_shipped_figures() -> None:
    plan = blueprint("sd1")
    assert counts(plan) == traced("sd1").parameters
    found = tuple(TracedRow(*row) for row in step_of(plan, CHECKPOINTED, USUAL_SIDES))  # type: ignore[arg-type]
    assert found == traced("sd1").training[CHECKPOINTED.key]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_closed_form_holds_for_an_untraced_size(batch: int) -> None:
    side = 80
    moments = training(blueprint("sd1"), CHECKPOINTED, Size(batch, side))
    rows = traced("sd1").training[CHECKPOINTED.key]
    for phase in ("forward", "backward"):
        real = max(sum(moment[1:]) for moment in moments if moment.phase == phase)
        planned = max(
            row.casts + row.unet_gradients + row.text_gradients + sum(row.bytes_at(batch, side * side))
            for row in rows
            if row.phase == phase
        )
        assert planned == pytest.approx(real, rel=0.002)
