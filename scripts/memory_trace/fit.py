"""From traces at a few sizes to a closed form for all sizes.

What is alive after an operation is `c + b (s0 + s1 A + s2 A^2)` bytes for `b` images of `A` latents each; s2 is 0 but
for attention in slices. A peak is the largest of all operations; of these only the few are kept that can be it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scripts.memory_trace.live import Moment
from scripts.memory_trace.passes import Size

Row = list[object]
Trace = Callable[[Size], Sequence[Moment]]

BATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
AREAS_OF_FIRST = (1 / 16, 1 / 4, 0.5, 1, 1.5, 2.25, 4, 6.25, 9)
"""Areas at which peaks are looked for, as parts of the first traced one."""
KINDS = ("casts", "unet_gradients", "text_gradients")


def fitted(trace: Trace, sides: Sequence[int], *, downscale: int, is_quadratic: bool = False) -> list[Row]:
    """Trace at a few sizes and return the rows that can be a peak.

    Args:
        trace: gives the moments of a pass at a size, the same operations at every size.
        sides: two sides of the latents, three where the form is quadratic.
        downscale: pixels of a side of a latent.
        is_quadratic: whether memory grows with the square of the area.

    Returns:
        Rows of `phase, casts, gradients of the UNet, of the text encoder, activations, workspace`, the last two as
        `[c, s0, s1, s2]`.
    """
    sizes = [Size(2, sides[0], downscale), Size(3, sides[0], downscale)]
    sizes += [Size(2, side, downscale) for side in (sides[1:] if is_quadratic else sides[1:2])]
    traces = [trace(size) for size in sizes]
    if len({len(moments) for moments in traces}) > 1:
        raise ValueError(f"the number of operations depends on the size: {[len(m) for m in traces]}")
    activations = _coefficients(sizes, np.array([[m.activations for m in moments] for moments in traces]))
    workspace = _coefficients(sizes, np.array([[m.workspace for m in moments] for moments in traces]))
    first = traces[0]
    fixed = np.array([[getattr(moment, kind) for kind in KINDS] for moment in first])
    phases = [moment.phase for moment in first]
    kept = _can_be_peak(activations + workspace, fixed, phases, sides[0] ** 2)
    return [
        [phases[i], *map(int, fixed[i]), _rounded(activations[:, i]), _rounded(workspace[:, i])] for i in sorted(kept)
    ]


def _coefficients(sizes: Sequence[Size], measured: np.ndarray) -> np.ndarray:
    """Solve for c, s0, s1 and s2 of each operation, shape (4, operations)."""
    terms = np.array([[1, s.batch, s.batch * s.side**2, s.batch * s.side**4] for s in sizes], dtype=np.float64)
    num_terms = len(sizes)
    solved = np.linalg.solve(terms[:, :num_terms], measured.astype(np.float64))
    return np.vstack([solved, np.zeros((4 - num_terms, measured.shape[1]))])


def _can_be_peak(form: np.ndarray, fixed: np.ndarray, phases: Sequence[str], area: int) -> set[int]:
    """The operations that are the peak of their phase at some size, whatever becomes of the gradients."""
    kept: set[int] = set()
    for phase in dict.fromkeys(phases):
        inside = np.flatnonzero(np.array(phases) == phase)
        for casts in (0, 1):
            for unet_gradients in (0, 1):
                for text_gradients in (0, 0.3, 1):
                    constant = fixed[inside] @ np.array([casts, unet_gradients, text_gradients])
                    for batch in BATCHES:
                        for part in AREAS_OF_FIRST:
                            cells = area * part
                            terms = np.array([1, batch, batch * cells, batch * cells**2])
                            kept.add(int(inside[np.argmax(terms @ form[:, inside] + constant)]))
    return kept


def _rounded(coefficients: np.ndarray) -> list[float]:
    return [float(f"{value:.10g}") for value in coefficients]
