"""Whether batches are full: a batch that is large beside what each size has of images seldom is."""

from ed2.data.epoch import Planner

FULL_ENOUGH = 0.75
"""Share of its places that a batch fills on average; below it is worth a word."""


def batch_notes(planner: Planner) -> list[str]:
    """What to say of batches of which many are short, and what to do: nothing, or one sentence or two."""
    counts, batch_size = planner.counts(0), planner.batch_size
    if not sum(counts) or _share_filled(counts, batch_size) >= FULL_ENOUGH:
        return []
    mean = _share_filled(counts, batch_size) * batch_size
    better = next(size for size in range(batch_size - 1, 0, -1) if _share_filled(counts, size) >= FULL_ENOUGH)
    return [
        f"A batch holds {mean:.1f} of {batch_size} images on average: each size of image ends in a shorter one, "
        f"since none is repeated or left out. For fuller batches lower batch_size to {better}, or add images of the "
        "sizes that have few."
    ]


def _share_filled(counts: list[int], batch_size: int) -> float:
    batches = sum(-(-count // batch_size) for count in counts)
    return sum(counts) / (batches * batch_size)
