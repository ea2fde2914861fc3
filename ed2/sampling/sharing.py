"""Samples that several processes draw together: each draws some of the batches, and rank 0 writes all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ed2.disk_errors import plain_reason
from ed2.models.base import DiffusionModel
from ed2.ranks.base import Message, RankAnswer, Ranks
from ed2.sampling.adaptive import AdaptiveSampler
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import Drawn, SampleOptions

SHARED_SAMPLES = "samples"
"""What rank 0 asks for."""
DRAWN, NEWS, FAILURE = "drawn", "news", "failure"
SENT_OPTIONS = ("batch_size", "sampler", "num_steps")
"""The fields of `SampleOptions` that rank 0 tells the others."""


def ask_for_samples(ranks: Ranks, batches: Sequence[Sequence[Prompt]], options: SampleOptions) -> None:
    """Ask the other processes to draw their batches. Raises RankError."""
    values = [[asdict(prompt) for prompt in batch] for batch in batches]
    ranks.ask(SHARED_SAMPLES, {"batches": values, **{name: getattr(options, name) for name in SENT_OPTIONS}})


def own_batches(batches: Sequence[Sequence[Prompt]], ranks: Ranks) -> list[Sequence[Prompt]]:
    """The batches that this process draws: whole ones, so that each image is the same as if one process drew all."""
    return list(batches[ranks.rank :: ranks.size])


def drawn_samples(
    model: DiffusionModel, ranks: Ranks, adaptive: AdaptiveSampler, options: SampleOptions, request: Message
) -> RankAnswer:
    """The images of the share of this process, for rank 0."""
    options = replace(
        options, batch_size=request["batch_size"], sampler=request["sampler"], num_steps=request["num_steps"]
    )
    drawn: list[Drawn] = []
    failure = ""
    for batch in own_batches([[_prompt(values) for values in batch] for batch in request["batches"]], ranks):
        try:
            drawn += adaptive.draw(model, batch, options)
        except (RuntimeError, OSError, ValueError, MemoryError) as error:  # no reason for a run to end
            failure = f"process {ranks.rank}: {plain_reason(error)}"
            break
    tiles = [torch.from_numpy(np.array(tile)) for one in drawn for tile in one.tiles]
    indices = [one.prompt.index for one in drawn]
    return RankAnswer({DRAWN: indices, NEWS: adaptive.take_news(), FAILURE: failure}, tiles)


def samples_of(answer: RankAnswer, prompts: Mapping[int, Prompt]) -> Iterator[Drawn]:
    """What another process has drawn. Raises RuntimeError if it could not draw the rest."""
    tiles = iter(answer.tensors)
    for index in answer.values[DRAWN]:
        prompt = prompts[index]
        images = tuple(Image.fromarray(next(tiles).numpy()) for _ in prompt.cfgs)
        yield Drawn(replace(prompt, size=images[0].size), images)
    if answer.values[FAILURE]:
        raise RuntimeError(answer.values[FAILURE])


def _prompt(values: Mapping[str, Any]) -> Prompt:
    return Prompt(**{**values, "size": tuple(values["size"]), "cfgs": tuple(values["cfgs"])})
