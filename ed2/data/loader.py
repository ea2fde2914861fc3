"""Batches of pixels and captions, decoded ahead in threads, in the order of the plan.

What is drawn for a picture depends on the seed, the epoch, the picture and the repeat only, so the bytes are the same
for any number of threads and from any starting step.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ed2.data.buckets import Box, Size, crop_box, jittered_box
from ed2.data.epoch import PlannedBatch, Planner
from ed2.data.example import Example, Finding
from ed2.data.images import JPEG_SHRINKS, WHITE, ImageError, decode, ignore_pillow_warnings
from ed2.draws import rng
from ed2.errors import Problem

logger = logging.getLogger(__name__)


class VisitKey(NamedTuple):
    """What the draws of one showing of a picture are keyed by: `rng(seed, "noise", *visit_key)`."""

    epoch: int
    key: str
    repeat: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pictures of one size, ready for the model."""

    pixels: Tensor
    """float32 (B, 3, H, W) in -1 to 1, contiguous."""
    captions: tuple[str, ...]
    """Empty where the caption was dropped."""
    loss_scale: Tensor
    """float32 (B,)."""
    visits: tuple[VisitKey, ...]
    names: tuple[str, ...]
    """What a person knows each picture by."""
    bucket: Size

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the pictures from `start` up to `stop` as a batch of their own, with the same draws."""
        return Batch(
            pixels=self.pixels[start:stop],
            captions=self.captions[start:stop],
            loss_scale=self.loss_scale[start:stop],
            visits=self.visits[start:stop],
            names=self.names[start:stop],
            bucket=self.bucket,
        )


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into at most `parts` parts whose sizes differ by at most one picture."""
    parts = min(parts, len(batch))
    borders = [len(batch) * place // parts for place in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(borders)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions:
    """How pictures are dealt and loaded."""

    seed: int
    batch_size: int
    grad_accum: int = 1
    threads: int = 2
    ahead: int = 4
    """Batches that are decoded before they are asked for, at most."""
    jitter: bool = True
    """Whether crops differ a little from visit to visit; off for validation."""
    keep_tags: int = 0
    """How many tags stay in their place where tags are shuffled."""
    background: str = WHITE
    """What shows through where a picture is transparent."""


@dataclass(frozen=True, slots=True)
class _Loading:
    """A batch whose pictures are being decoded."""

    place: tuple[int, int]
    """Epoch, and step in the epoch."""
    bucket: Size
    showings: tuple[tuple[Example, VisitKey, "Future[NDArray[np.uint8]]"], ...]


class Loader:
    """Gives the batches of an epoch while decoding the next ones. Close it, or use it in `with`."""

    def __init__(
        self, examples: Sequence[Example], options: LoaderOptions, *, on_problem: Callable[[Problem], None]
    ) -> None:
        """Start the threads.

        Args:
            examples: what is loaded; an epoch's plan depends on their order.
            options: how it is dealt and loaded.
            on_problem: told once of each picture that can no longer be read, in the thread that takes the batches.
        """
        ignore_pillow_warnings()
        self._examples = tuple(examples)
        self._options = options
        self._on_problem = on_problem
        self._told: set[str] = set()
        self.planner = Planner(
            self._examples, seed=options.seed, batch_size=options.batch_size, grad_accum=options.grad_accum
        )
        self._plan = lru_cache(maxsize=2)(self.planner.plan)
        self._pool = ThreadPoolExecutor(max_workers=max(1, options.threads), thread_name_prefix="picture")
        self._coming: deque[_Loading] = deque()
        self._planned: Iterator[tuple[tuple[int, int], PlannedBatch]] = iter(())
        self._next: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; pictures that are not begun yet are left."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
        self._next = None

    def groups(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Give the batches of each optimizer step of `epoch`, from step `start` on.

        A picture that can no longer be read is left out and told once. The list of a step whose pictures are all
        unreadable is empty: it still counts as a step, so that a position in the epoch keeps its meaning.
        One iterator at a time: beginning another ends the one before.
        """
        if self._next != (epoch, start):
            self._restart(epoch, start)
        for step in range(start, len(self._plan(epoch))):
            if self._next != (epoch, step):
                raise RuntimeError("The loader was closed, or given another place, while these batches were taken.")
            yield self._take(epoch, step)

    def _places(self, epoch: int, start: int) -> Iterator[tuple[tuple[int, int], PlannedBatch]]:
        """Give every planned batch from here on, across the ends of epochs."""
        while any(example.multiply > 0 for example in self._examples):
            for step, batches in enumerate(self._plan(epoch)[start:], start):
                for batch in batches:
                    yield (epoch, step), batch
            epoch, start = epoch + 1, 0

    def _restart(self, epoch: int, start: int) -> None:
        for loading in self._coming:
            for _, _, picture in loading.showings:
                picture.cancel()
        self._coming.clear()
        self._planned = self._places(epoch, start)
        self._next = (epoch, start)

    def _take(self, epoch: int, step: int) -> list[Batch]:
        """Return the batches of a step, and keep the threads busy with those after it."""
        self._next = None  # until the step is whole, so that an error here makes the next call start afresh
        batches: list[Batch] = []
        self._work_ahead()
        while self._coming and self._coming[0].place == (epoch, step):
            batch = self._finished(self._coming.popleft())
            batches += [batch] if batch else []
            self._work_ahead()
        self._next = (epoch, step + 1) if step + 1 < len(self._plan(epoch)) else (epoch + 1, 0)
        return batches

    def _work_ahead(self) -> None:
        while len(self._coming) < max(1, self._options.ahead):
            place, batch = next(self._planned, (None, None))
            if place is None or batch is None:
                return
            self._coming.append(self._begun(place, batch))

    def _begun(self, place: tuple[int, int], batch: PlannedBatch) -> _Loading:
        showings = []
        for visit in batch.visits:
            example = self._examples[visit.example]
            key = VisitKey(place[0], example.key, visit.repeat)
            showings.append((example, key, self._pool.submit(load_pixels, example, key, self._options)))
        return _Loading(place, batch.bucket, tuple(showings))

    def _finished(self, loading: _Loading) -> Batch | None:
        """Wait for the pictures of a batch; None when not one of them can be read."""
        loaded = []
        for example, key, picture in loading.showings:
            try:
                loaded.append((example, key, picture.result()))
            except ImageError as error:
                self._tell(example, error)
            except Exception as error:  # a fault of a library: the run goes on with the other pictures
                logger.info("Reading %s failed.", example.name, exc_info=True)
                what = f"it cannot be decoded ({type(error).__name__}: {error})."
                self._tell(example, ImageError(what, fix="Save it anew, or replace it."))
        if not loaded:
            return None
        examples = [example for example, _, _ in loaded]
        visits = tuple(key for _, key, _ in loaded)
        return Batch(
            pixels=_as_pixels([pixels for _, _, pixels in loaded]),
            captions=tuple(map(self._caption, examples, visits)),
            loss_scale=torch.tensor([example.loss_scale for example in examples], dtype=torch.float32),
            visits=visits,
            names=tuple(example.name for example in examples),
            bucket=loading.bucket,
        )

    def _caption(self, example: Example, visit: VisitKey) -> str:
        dropped = _happens(example.cond_dropout, self._options.seed, "caption dropout", visit)
        if dropped:
            return ""
        return example.caption_at(lambda: rng(self._options.seed, "tags", *visit), self._options.keep_tags)

    def _tell(self, example: Example, error: ImageError) -> None:
        if example.key not in self._told:
            self._told.add(example.key)
            self._on_problem(Finding(example.name, error.what, error.fix, root=example.root))


def load_pixels(example: Example, visit: VisitKey, options: LoaderOptions) -> NDArray[np.uint8]:
    """Return one showing of a picture: cropped, in the size of its bucket, maybe flipped; uint8 (H, W, 3).

    Raises:
        ImageError: the picture can no longer be read.
    """
    box = crop_box(example.size, example.bucket)
    if options.jitter:
        box = jittered_box(example.size, example.bucket, rng(options.seed, "crop", *visit))
    image = decode(example.path, _size_needed(example, box), options.background)
    image = image.resize(example.bucket, Image.Resampling.LANCZOS, box=_box_in(image.size, example, box))
    if _happens(example.flip_p, options.seed, "flip", visit):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _size_needed(example: Example, box: Box) -> Size:
    """Return how large the whole picture must be for `box` in it to fill the bucket without being enlarged."""
    left, top, right, bottom = box
    width, height = example.size
    return math.ceil(width * example.bucket[0] / (right - left)), math.ceil(height * example.bucket[1] / (bottom - top))


def _box_in(decoded: Size, example: Example, box: Box) -> tuple[float, float, float, float]:
    """Return where `box` lies in a picture decoded smaller, or in another picture that has taken its place."""
    for shrink in JPEG_SHRINKS:
        if decoded == tuple(-(-side // shrink) for side in example.size):
            left, top, right, bottom = box
            return left / shrink, top / shrink, right / shrink, bottom / shrink
    return crop_box(decoded, example.bucket)


def _happens(probability: float, seed: int, what: str, visit: VisitKey) -> bool:
    return probability > 0 and bool(rng(seed, what, *visit).random() < probability)


def _as_pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return float32 (B, 3, H, W) in -1 to 1; division by 127.5 makes both ends exact."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(torch.float32).div_(127.5).sub_(1)
