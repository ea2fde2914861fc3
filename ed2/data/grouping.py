"""Batches put together into optimizer steps, those of one batch id into one step as far as they have room there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Step:
    room: int
    batches: list[int] = field(default_factory=list)


def groups_of(order: Sequence[int], ids: Sequence[str], grad_accum: int) -> list[list[int]]:
    """Return the batches of each optimizer step.

    Batches without an id fill up the steps of those that have one, then make steps of their own; only where they do
    not suffice is a step before the last short.

    Args:
        order: batches by their number, in the order in which they are taken.
        ids: the batch id of each batch by its number, empty for none.
        grad_accum: batches in a step, at most.
    """
    named: dict[str, list[int]] = {}
    for batch in order:
        named.setdefault(ids[batch], []).append(batch)
    unnamed = iter(named.pop("", []))
    parts = [
        batches[start : start + grad_accum]
        for batches in named.values()
        for start in range(0, len(batches), grad_accum)
    ]
    steps = _packed(parts, grad_accum)
    for step in steps:
        step.batches += [batch for _, batch in zip(range(step.room), unnamed, strict=False)]
    rest = list(unnamed)
    return [step.batches for step in steps] + [
        rest[start : start + grad_accum] for start in range(0, len(rest), grad_accum)
    ]


def num_groups(batches: Mapping[str, int], grad_accum: int) -> int:
    """Return how many steps `groups_of` makes of so many batches of each id."""
    parts = [
        [0] * min(grad_accum, count - start)
        for batch_id, count in batches.items()
        if batch_id
        for start in range(0, count, grad_accum)
    ]
    steps = _packed(parts, grad_accum)
    rest = max(0, batches.get("", 0) - sum(step.room for step in steps))
    return len(steps) + -(-rest // grad_accum)


def _packed(parts: Sequence[list[int]], grad_accum: int) -> list[_Step]:
    """Put each part, the largest first, into the step whose room it fills best.

    Steps are looked up by the room that is left, so that many ids cost no more than few.
    """
    steps: list[_Step] = []
    by_room: dict[int, list[_Step]] = {}
    for part in sorted(parts, key=len, reverse=True):
        room = next((room for room in sorted(by_room) if room >= len(part) and by_room[room]), None)
        step = by_room[room].pop() if room is not None else _Step(grad_accum)
        if room is None:
            steps.append(step)
        step.batches += part
        step.room -= len(part)
        by_room.setdefault(step.room, []).append(step)
    return steps
