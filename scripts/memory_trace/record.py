"""What is kept of a model's traces, in the form that `ed2.vram.shapes` reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ed2.models.lora.names import LAYERS
from scripts.memory_trace.fit import Row, fitted
from scripts.memory_trace.networks import Blueprint, adapted, blueprint, counts
from scripts.memory_trace.passes import CARD, Variant, Where, decoding, denoising, encoding, training

FAMILIES = ("sd1", "sd2", "sdxl", "demo")
SIDES = {"demo": (16, 32, 48)}
USUAL_SIDES = (64, 96, 128)
DOWNSCALES = {"demo": 4}
USUAL_DOWNSCALE = 8


def variants() -> list[Variant]:
    """Every course that a training step may take."""
    networks = ("both", "unet", "text_encoder")
    every = itertools.product(("half", "fp32"), networks, (False, True))
    found = [Variant(*values) for values in every]
    found += [Variant("half", trained, again, weights="half") for trained in networks for again in (False, True)]
    sliced = itertools.product(("half", "fp32"), networks, (False, True), ("slice",))
    return [*found, *(Variant(*values) for values in sliced), *_of_adapters()]


def _of_adapters() -> list[Variant]:
    every = itertools.product(("half", "fp32"), ("lora", "lora-both"), (False, True), ("sdp",), LAYERS)
    dora = itertools.product(("half",), ("lora",), (False, True), ("sdp",), LAYERS, (True,))
    return [Variant(*values) for values in [*every, *dora]]


def step_of(
    plan: Blueprint, variant: Variant, sides: Sequence[int], downscale: int = USUAL_DOWNSCALE, where: Where = CARD
) -> list[Row]:
    """The closed form of a training step."""
    return fitted(
        lambda size: training(plan, variant, size, where),
        sides,
        downscale=downscale,
        is_quadratic=variant.attention == "slice",
    )


def passes_of(
    plan: Blueprint, sides: Sequence[int], downscale: int = USUAL_DOWNSCALE, where: Where = CARD
) -> dict[str, dict[str, list[Row]]]:
    """The closed forms of what happens beside training, in both precisions.

    The VAE lies by pixel in memory, so that its convolutions copy nothing.
    """
    by_pixel = replace(where, with_workspace=False)
    runs = {"denoising": (denoising, where), "encoding": (encoding, by_pixel), "decoding": (decoding, by_pixel)}
    return {
        name: {
            precision: fitted(
                lambda size: run(plan, Variant(precision), size, place),  # noqa: B023
                sides,
                downscale=downscale,
            )
            for precision in ("half", "fp32")
        }
        for name, (run, place) in runs.items()
    }


def record(
    plan: Blueprint, downscale: int, steps: Mapping[str, list[Row]], passes: Mapping[str, Mapping[str, list[Row]]]
) -> dict[str, object]:
    """All that is known of a model."""
    return {
        "downscale": downscale,
        "parameters": counts(plan),
        "adapters": adapted(plan),
        "training": dict(steps),
        **passes,
    }


def traced(family: str, first: int | None = None, known: Mapping[str, list[Row]] | None = None) -> dict[str, object]:
    """All that is known of a family.

    Args:
        family: its name, or `demo`.
        first: trace only that many variants, as a trial.
        known: training steps that need no new trace, by their variant's key.
    """
    plan, sides = blueprint(family), SIDES.get(family, USUAL_SIDES)
    downscale = DOWNSCALES.get(family, USUAL_DOWNSCALE)
    steps = dict(known or {})
    for variant in variants()[:first]:
        if variant.key not in steps:
            steps[variant.key] = step_of(plan, variant, sides, downscale)
            print(family, variant.key, len(steps[variant.key]), "rows", flush=True)
    return record(plan, downscale, steps, passes_of(plan, sides, downscale))
