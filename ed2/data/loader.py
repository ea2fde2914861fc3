"""Batches of pixels and captions, decoded in advance by threads, in the order of the plan.

All draws for an image depend only on the seed, the epoch, the image and the repeat, so the bytes are the same for any
number of threads and from any starting step.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ed2.data.buckets import Size
from ed2.data.epoch import EpochPlanner, PlannedBatch
from ed2.data.example import Example, Finding, FindingKind
from ed2.data.images import ImageError, ignore_pillow_warnings
from ed2.data.pixels import LoadedImage, LoaderOptions, VisitKey, happens, is_changed, load_image, require_readable
from ed2.disk import wait_for_handles
from ed2.draws import rng

logger = logging.getLogger(__name__)

CHANGED = (
    "the file has changed since the run started.",
    "It is trained as it is now, with the caption read at the start, so the run can no longer be repeated exactly.",
)
"""The report on an image whose file has changed, and the consequence."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one size, ready for the model."""

    pixels: Tensor
    """float32 (B, 3, H, W) in -1 to 1, contiguous."""
    captions: tuple[str, ...]
    """Empty strings for dropped captions."""
    loss_scale: Tensor
    """float32 (B,)."""
    visits: tuple[VisitKey, ...]
    names: tuple[str, ...]
    """The name of each image, for messages."""
    bucket: Size
    original_size: Tensor
    """int64 (B, 2): height and width of each image file, upright."""
    crop: Tensor
    """int64 (B, 2): pixels cut off at the top and left of each image as resized to cover the bucket."""

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the images from `start` up to `stop` as a separate batch, with the same draws."""
        return Batch(
            pixels=self.pixels[start:stop],
            captions=self.captions[start:stop],
            loss_scale=self.loss_scale[start:stop],
            visits=self.visits[start:stop],
            names=self.names[start:stop],
            bucket=self.bucket,
            original_size=self.original_size[start:stop],
            crop=self.crop[start:stop],
        )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` parts whose sizes differ by at most one image."""
    parts = min(parts, len(batch))
    borders = [len(batch) * place // parts for place in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(borders)]


@dataclass(frozen=True, slots=True)
class _Loading:
    """A batch whose images are being decoded."""

    place: tuple[int, int]
    """Epoch, and step within the epoch."""
    bucket: Size
    visits: tuple[tuple[Example, VisitKey, "Future[tuple[LoadedImage, bool]]"], ...]
    """Each with the future of the image and of whether its file has changed."""


class Loader:
    """Yields the batches of an epoch while decoding the next ones. Close it, or use it in `with`."""

    def __init__(
        self, examples: Sequence[Example], options: LoaderOptions, *, on_problem: Callable[[Finding], None]
    ) -> None:
        """Start the threads.

        Args:
            examples: the images; an epoch's plan depends on their order.
            options: how they are batched and loaded.
            on_problem: called once for each image that can no longer be read, and once for each that has changed (a
                finding of that kind), in the thread that takes the batches.
        """
        ignore_pillow_warnings()
        self._examples = tuple(examples)
        self._options = options
        self._on_problem = on_problem
        self._reported: set[tuple[str, FindingKind]] = set()
        self._is_missing_images = False
        self.planner = EpochPlanner(
            self._examples, seed=options.seed, batch_size=options.batch_size, grad_accum=options.grad_accum
        )
        self._plan = lru_cache(maxsize=2)(self.planner.plan)
        self._pool = ThreadPoolExecutor(max_workers=max(1, options.threads), thread_name_prefix="image")
        self._pending: deque[_Loading] = deque()
        self._planned: Iterator[tuple[tuple[int, int], PlannedBatch]] = iter(())
        self._next: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; images that are waiting are not decoded."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._next = None

    def groups(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step of `epoch`, from step `start` on.

        An image that can no longer be read is left out and reported once. The list of a step whose images are all
        unreadable is empty: it still counts as a step, so that a position in the epoch keeps its meaning.
        Only one iterator at a time: a new one ends the one before.
        """
        if self._next != (epoch, start):
            self._move_to(epoch, start)
        for step in range(start, len(self._plan(epoch))):
            if self._next != (epoch, step):
                raise RuntimeError("The loader was closed or moved while these batches were being taken.")
            yield self._take(epoch, step)

    def require_readable(self) -> None:
        """If the last step lost an image, or all of its images, check that any image is left at all.

        Raises:
            ImagesLostError: none of the images can be read any more.
        """
        if self._is_missing_images:
            require_readable(self._examples)

    def _places(self, epoch: int, start: int) -> Iterator[tuple[tuple[int, int], PlannedBatch]]:
        """Yield every planned batch from here on, across epochs."""
        while any(example.multiply > 0 for example in self._examples):
            for step, batches in enumerate(self._plan(epoch)[start:], start):
                for batch in batches:
                    yield (epoch, step), batch
            epoch, start = epoch + 1, 0

    def _move_to(self, epoch: int, start: int) -> None:
        for loading in self._pending:
            for _, _, image in loading.visits:
                image.cancel()
        self._pending.clear()
        self._planned = self._places(epoch, start)
        self._next = (epoch, start)

    def _take(self, epoch: int, step: int) -> list[Batch]:
        """Return the batches of a step, and keep the threads busy with the next ones."""
        self._next = None  # repeated until the step is complete, so that after an error the next call starts over
        batches: list[Batch] = []
        self._is_missing_images = False
        self._work_ahead()
        while self._pending and self._pending[0].place == (epoch, step):
            if batch := self._finish(self._pending.popleft()):
                batches.append(batch)
            self._work_ahead()
        self._is_missing_images = self._is_missing_images or not batches
        self._next = (epoch, step + 1) if step + 1 < len(self._plan(epoch)) else (epoch + 1, 0)
        return batches

    def _work_ahead(self) -> None:
        while len(self._pending) < max(1, self._options.ahead):
            place, batch = next(self._planned, (None, None))
            if place is None or batch is None:
                return
            self._pending.append(self._start(place, batch))

    def _start(self, place: tuple[int, int], batch: PlannedBatch) -> _Loading:
        visits = []
        for visit in batch.visits:
            example = self._examples[visit.example]
            key = VisitKey(place[0], example.key, visit.repeat)
            visits.append((example, key, self._pool.submit(_load, example, key, self._options)))
        return _Loading(place, batch.bucket, tuple(visits))

    def _finish(self, loading: _Loading) -> Batch | None:
        """Wait for the images of a batch; None if none of them can be read."""
        examples: list[Example] = []
        visits: list[VisitKey] = []
        images: list[LoadedImage] = []
        for example, visit, future in loading.visits:
            try:
                image, has_changed = future.result()
            except ImageError as error:
                self._report(example, error.what, error.fix)
            except Exception as error:  # a library bug: the run continues with the other images
                logger.info("Reading %s failed.", example.name, exc_info=True)
                what = f"it cannot be decoded ({type(error).__name__}: {error})."
                self._report(example, what, "Save it again, or replace it.")
            else:
                examples.append(example)
                visits.append(visit)
                images.append(image)
                if has_changed:
                    self._report(example, *CHANGED, kind="changed")
        if not examples:
            return None
        return Batch(
            pixels=_as_pixels([image.pixels for image in images]),
            captions=tuple(map(self._caption, examples, visits)),
            loss_scale=torch.tensor([example.loss_scale for example in examples], dtype=torch.float32),
            visits=tuple(visits),
            names=tuple(example.name for example in examples),
            bucket=loading.bucket,
            original_size=torch.tensor([example.size[::-1] for example in examples]),
            crop=torch.tensor([image.crop for image in images]),
        )

    def _caption(self, example: Example, visit: VisitKey) -> str:
        if happens(example.cond_dropout, self._options.seed, "caption dropout", visit):
            return ""
        return example.caption_at(lambda: rng(self._options.seed, "tags", *visit), self._options.keep_tags)

    def _report(self, example: Example, what: str, fix: str, *, kind: FindingKind = "unusable") -> None:
        if (example.key, kind) not in self._reported:
            self._reported.add((example.key, kind))
            self._is_missing_images = self._is_missing_images or kind == "unusable"
            self._on_problem(Finding(example.name, what, fix, kind=kind, root=example.root, file=example.path))


def _load(example: Example, visit: VisitKey, options: LoaderOptions) -> tuple[LoadedImage, bool]:
    """Return one visit of an image, and whether its file has changed since the start."""
    return wait_for_handles(lambda: load_image(example, visit, options)), is_changed(example)


def _as_pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return float32 (B, 3, H, W) in -1 to 1; dividing by 127.5 makes both ends exact."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(torch.float32).div_(127.5).sub_(1)
