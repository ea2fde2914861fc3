"""Batches of pixels and captions, decoded ahead in threads, in the order of the plan.

What is drawn for an image depends on the seed, the epoch, the image and the repeat only, so the bytes are the same
for any number of threads and from any starting step.
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
from ed2.data.epoch import PlannedBatch, Planner
from ed2.data.example import Example, Finding, Kind
from ed2.data.images import ImageError, ignore_pillow_warnings
from ed2.data.lost import require_readable
from ed2.data.pixels import LoaderOptions as LoaderOptions
from ed2.data.pixels import VisitKey as VisitKey
from ed2.data.pixels import happens, is_changed, load_pixels
from ed2.draws import rng

logger = logging.getLogger(__name__)

CHANGED = (
    "its file was changed after the run had begun.",
    "It is trained as it is now, under the caption that was read then, so the run can no longer be repeated exactly.",
)
"""What is said of an image that is another than the one that was read, and what comes of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one size, ready for the model."""

    pixels: Tensor
    """float32 (B, 3, H, W) in -1 to 1, contiguous."""
    captions: tuple[str, ...]
    """Empty where the caption was dropped."""
    loss_scale: Tensor
    """float32 (B,)."""
    visits: tuple[VisitKey, ...]
    names: tuple[str, ...]
    """What a person knows each image by."""
    bucket: Size

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the images from `start` up to `stop` as a batch of their own, with the same draws."""
        return Batch(
            pixels=self.pixels[start:stop],
            captions=self.captions[start:stop],
            loss_scale=self.loss_scale[start:stop],
            visits=self.visits[start:stop],
            names=self.names[start:stop],
            bucket=self.bucket,
        )


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into at most `parts` parts whose sizes differ by at most one image."""
    parts = min(parts, len(batch))
    borders = [len(batch) * place // parts for place in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(borders)]


@dataclass(frozen=True, slots=True)
class _Loading:
    """A batch whose images are being decoded."""

    place: tuple[int, int]
    """Epoch, and step in the epoch."""
    bucket: Size
    showings: tuple[tuple[Example, VisitKey, "Future[tuple[NDArray[np.uint8], bool]]"], ...]
    """Each with its pixels to come, and whether its file has changed."""


class Loader:
    """Gives the batches of an epoch while decoding the next ones. Close it, or use it in `with`."""

    def __init__(
        self, examples: Sequence[Example], options: LoaderOptions, *, on_problem: Callable[[Finding], None]
    ) -> None:
        """Start the threads.

        Args:
            examples: what is loaded; an epoch's plan depends on their order.
            options: how it is dealt and loaded.
            on_problem: told once of each image that can no longer be read, and once of each that was changed (a
                finding of that kind), in the thread that takes the batches.
        """
        ignore_pillow_warnings()
        self._examples = tuple(examples)
        self._options = options
        self._on_problem = on_problem
        self._told: set[tuple[str, Kind]] = set()
        self._is_in_doubt = False
        self.planner = Planner(
            self._examples, seed=options.seed, batch_size=options.batch_size, grad_accum=options.grad_accum
        )
        self._plan = lru_cache(maxsize=2)(self.planner.plan)
        self._pool = ThreadPoolExecutor(max_workers=max(1, options.threads), thread_name_prefix="image")
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
        """End the threads; images that are not begun yet are left."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
        self._next = None

    def groups(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Give the batches of each optimizer step of `epoch`, from step `start` on.

        An image that can no longer be read is left out and told once. The list of a step whose images are all
        unreadable is empty: it still counts as a step, so that a position in the epoch keeps its meaning.
        One iterator at a time: beginning another ends the one before.
        """
        if self._next != (epoch, start):
            self._restart(epoch, start)
        for step in range(start, len(self._plan(epoch))):
            if self._next != (epoch, step):
                raise RuntimeError("The loader was closed, or given another place, while these batches were taken.")
            yield self._take(epoch, step)

    def require_readable(self) -> None:
        """Where the step that was taken last lacks an image for the first time, or all, see that any is left at all.

        Raises:
            ImagesLostError: not one image can be read any more.
        """
        if self._is_in_doubt:
            require_readable(self._examples)

    def _places(self, epoch: int, start: int) -> Iterator[tuple[tuple[int, int], PlannedBatch]]:
        """Give every planned batch from here on, across the ends of epochs."""
        while any(example.multiply > 0 for example in self._examples):
            for step, batches in enumerate(self._plan(epoch)[start:], start):
                for batch in batches:
                    yield (epoch, step), batch
            epoch, start = epoch + 1, 0

    def _restart(self, epoch: int, start: int) -> None:
        for loading in self._coming:
            for _, _, image in loading.showings:
                image.cancel()
        self._coming.clear()
        self._planned = self._places(epoch, start)
        self._next = (epoch, start)

    def _take(self, epoch: int, step: int) -> list[Batch]:
        """Return the batches of a step, and keep the threads busy with those after it."""
        self._next = None  # until the step is whole, so that an error here makes the next call start afresh
        batches: list[Batch] = []
        self._is_in_doubt = False
        self._work_ahead()
        while self._coming and self._coming[0].place == (epoch, step):
            batch = self._finished(self._coming.popleft())
            batches += [batch] if batch else []
            self._work_ahead()
        self._is_in_doubt = self._is_in_doubt or not batches
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
            showings.append((example, key, self._pool.submit(_load, example, key, self._options)))
        return _Loading(place, batch.bucket, tuple(showings))

    def _finished(self, loading: _Loading) -> Batch | None:
        """Wait for the images of a batch; None when not one of them can be read."""
        loaded = []
        for example, key, image in loading.showings:
            try:
                pixels, has_changed = image.result()
            except ImageError as error:
                self._tell(example, error.what, error.fix)
            except Exception as error:  # a fault of a library: the run goes on with the other images
                logger.info("Reading %s failed.", example.name, exc_info=True)
                what = f"it cannot be decoded ({type(error).__name__}: {error})."
                self._tell(example, what, "Save it anew, or replace it.")
            else:
                loaded.append((example, key, pixels))
                if has_changed:
                    self._tell(example, *CHANGED, kind="changed")
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
        dropped = happens(example.cond_dropout, self._options.seed, "caption dropout", visit)
        if dropped:
            return ""
        return example.caption_at(lambda: rng(self._options.seed, "tags", *visit), self._options.keep_tags)

    def _tell(self, example: Example, what: str, fix: str, *, kind: Kind = "unusable") -> None:
        if (example.key, kind) not in self._told:
            self._told.add((example.key, kind))
            self._is_in_doubt = self._is_in_doubt or kind == "unusable"
            self._on_problem(Finding(example.name, what, fix, kind=kind, root=example.root, file=example.path))


def _load(example: Example, visit: VisitKey, options: LoaderOptions) -> tuple[NDArray[np.uint8], bool]:
    """Return one showing of an image, and whether its file is no longer the one that was read at the start."""
    return load_pixels(example, visit, options), is_changed(example)


def _as_pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return float32 (B, 3, H, W) in -1 to 1; division by 127.5 makes both ends exact."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(torch.float32).div_(127.5).sub_(1)
