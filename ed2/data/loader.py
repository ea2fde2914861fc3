"""Batches of pixels and captions, decoded in advance by threads, in the order of the plan.

All draws for an image depend only on the seed, the epoch, the image and the repeat, so the bytes are the same for any
number of threads and from any starting step.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ed2.data.buckets import Size
from ed2.data.cache import TensorCache
from ed2.data.epoch import EpochPlan, EpochPlanner, PlannedBatch
from ed2.data.example import Example, Finding, FindingKind
from ed2.data.images import ImageError, ignore_pillow_warnings
from ed2.data.pixels import LoaderOptions, crop_of, crop_offset, is_changed, load_image, require_readable
from ed2.data.variants import VisitKey, happens, latent_key
from ed2.disk import wait_for_handles
from ed2.draws import rng

logger = logging.getLogger(__name__)

CHANGED = (
    "the file has changed since the run started.",
    "It is trained as it is now, with the caption read at the start, so the run can no longer be repeated exactly.",
)
"""The report on an image whose file has changed, and the consequence."""
POSTERIOR = "posterior"
"""Name of the tensor in a row of a latent cache: mean and standard deviation, (2, C, h, w), fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one size, ready for the model: their pixels, or what the VAE made of them."""

    pixels: Tensor | None
    """float32 (B, 3, H, W) in -1 to 1, contiguous; None if all of `posterior` was cached."""
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
    posterior: Tensor | None = None
    """float32 (B, 2, C, h, w): mean and standard deviation of the latents, not scaled; None if there are pixels."""
    cache_keys: tuple[bytes, ...] = ()
    """With a latent cache, the key of each image's latents."""

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the images from `start` up to `stop` as a separate batch, with the same draws."""
        return Batch(
            pixels=None if self.pixels is None else self.pixels[start:stop],
            captions=self.captions[start:stop],
            loss_scale=self.loss_scale[start:stop],
            visits=self.visits[start:stop],
            names=self.names[start:stop],
            bucket=self.bucket,
            original_size=self.original_size[start:stop],
            crop=self.crop[start:stop],
            posterior=None if self.posterior is None else self.posterior[start:stop],
            cache_keys=self.cache_keys[start:stop],
        )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` parts whose sizes differ by at most one image."""
    parts = min(parts, len(batch))
    borders = [len(batch) * place // parts for place in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(borders)]


@dataclass(frozen=True, slots=True)
class _Visit:
    """One visit of an image as loaded: its pixels, or the cached distribution of its latents."""

    example: Example
    key: VisitKey
    offset: tuple[int, int] = (0, 0)
    """Pixels cut off at the top and left, as `Batch.crop`."""
    pixels: NDArray[np.uint8] | None = None
    """(H, W, 3)"""
    posterior: Tensor | None = None
    cache_key: bytes = b""
    has_changed: bool = False
    """Whether the file has changed since the run started."""


@dataclass(frozen=True, slots=True)
class _Loading:
    """A batch whose images are being decoded."""

    place: tuple[int, int]
    """Epoch, and step within the epoch."""
    bucket: Size
    visits: tuple[tuple[Example, "Future[_Visit]"], ...]


class Loader:
    """Yields the batches of an epoch while decoding the next ones. Close it, or use it in `with`."""

    def __init__(
        self,
        examples: Sequence[Example],
        options: LoaderOptions,
        *,
        on_problem: Callable[[Finding], None],
        lost: MutableMapping[str, int] | None = None,
        latents: TensorCache | None = None,
    ) -> None:
        """Start the threads.

        Args:
            examples: the images; an epoch's plan depends on their order.
            options: how they are batched and loaded.
            on_problem: called once for each image that can no longer be read, and once for each that has changed (a
                finding of that kind), in the thread that takes the batches.
            lost: the epoch in which each damaged image was found, by its key; later epochs leave it out. Those that
                this loader finds are added.
            latents: a cache of what the VAE makes of the images; rows that it has are used in place of pixels.
        """
        ignore_pillow_warnings()
        self._examples = tuple(examples)
        self._options = options
        self._on_problem = on_problem
        self._lost = {} if lost is None else lost
        self._latents = latents
        self._reported: set[tuple[str, FindingKind]] = set()
        self._is_missing_images = False
        self._planner_without = lru_cache(maxsize=2)(self._make_planner)
        self._plan_without = lru_cache(maxsize=2)(self._make_plan)
        self._steps_without = lru_cache(maxsize=None)(self._count_steps)
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
        if self._latents:
            self._latents.close()

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch, without images that were found damaged before it."""
        return self._plan_without(epoch, self._lost_before(epoch))

    def steps_in(self, epoch: int) -> int:
        """Return the number of optimizer steps of an epoch, as far as is known now, without planning it."""
        return self._steps_without(epoch, self._lost_before(epoch))

    def planned_steps_in(self, epoch: int) -> int:
        """Return how many it would have if no image were damaged, which a schedule over the whole run counts."""
        return self._steps_without(epoch, frozenset())

    def _lost_before(self, epoch: int) -> frozenset[str]:
        return frozenset(key for key, found_in in self._lost.items() if found_in < epoch)

    def _make_planner(self, lost: frozenset[str]) -> EpochPlanner:
        options = self._options
        left = [replace(example, multiply=0.0) if example.key in lost else example for example in self._examples]
        return EpochPlanner(left, seed=options.seed, batch_size=options.batch_size, grad_accum=options.grad_accum)

    def _make_plan(self, epoch: int, lost: frozenset[str]) -> EpochPlan:
        return self._planner_without(lost).plan(epoch)

    def _count_steps(self, epoch: int, lost: frozenset[str]) -> int:
        return self._planner_without(lost).steps(epoch)

    def groups(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step of `epoch`, from step `start` on.

        An image that can no longer be read is left out and reported once. The list of a step whose images are all
        unreadable is empty: it still counts as a step, so that a position in the epoch keeps its meaning.
        Only one iterator at a time: a new one ends the one before.
        """
        if self._next != (epoch, start):
            self._move_to(epoch, start)
        for step in range(start, len(self.plan(epoch))):
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
        while self._has_visits(epoch):
            for step, batches in enumerate(self.plan(epoch)[start:], start):
                for batch in batches:
                    yield (epoch, step), batch
            epoch, start = epoch + 1, 0

    def _has_visits(self, epoch: int) -> bool:
        lost = self._lost_before(epoch)
        return any(example.multiply > 0 and example.key not in lost for example in self._examples)

    def _move_to(self, epoch: int, start: int) -> None:
        for loading in self._pending:
            for _, image in loading.visits:
                image.cancel()
        self._pending.clear()
        self._planned = self._places(epoch, start)
        self._next = (epoch, start)

    def _take(self, epoch: int, step: int) -> list[Batch]:
        """Return the batches of a step, and keep the threads busy with the next ones."""
        self._next = None  # repeated until the step is complete, so that after an error the next call starts over
        batches: list[Batch] = []
        self._is_missing_images = False
        num_lost = len(self._lost)
        self._work_ahead()
        while self._pending and self._pending[0].place == (epoch, step):
            if batch := self._finish(self._pending.popleft()):
                batches.append(batch)
            self._work_ahead()
        self._is_missing_images = self._is_missing_images or not batches
        upcoming = (epoch, step + 1) if step + 1 < len(self.plan(epoch)) else (epoch + 1, 0)
        if len(self._lost) > num_lost and self._pending and self._pending[-1].place[0] > epoch:
            self._move_to(*upcoming)  # what was begun of the next epoch was planned with the damaged images
        self._next = upcoming
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
            visits.append((example, self._pool.submit(_load, example, key, self._options, self._latents)))
        return _Loading(place, batch.bucket, tuple(visits))

    def _finish(self, loading: _Loading) -> Batch | None:
        """Wait for the images of a batch; None if none of them can be read."""
        images = self._loaded(loading.visits, loading.place[0])
        if any(image.posterior is None for image in images):  # a batch is encoded as a whole, or not at all
            again = [(image.example, self._pool.submit(_with_pixels, image, self._options)) for image in images]
            images = self._loaded(again, loading.place[0])
        return self._batch(images, loading.bucket) if images else None

    def _batch(self, images: Sequence[_Visit], bucket: Size) -> Batch:
        pixels, posterior = _stacked(images)
        examples = [image.example for image in images]
        return Batch(
            pixels=pixels,
            posterior=posterior,
            captions=tuple(self._caption(image.example, image.key) for image in images),
            loss_scale=torch.tensor([example.loss_scale for example in examples], dtype=torch.float32),
            visits=tuple(image.key for image in images),
            names=tuple(example.name for example in examples),
            bucket=bucket,
            original_size=torch.tensor([example.size[::-1] for example in examples]),
            crop=torch.tensor([image.offset for image in images]),
            cache_keys=tuple(image.cache_key for image in images) if self._latents else (),
        )

    def _loaded(self, visits: Sequence[tuple[Example, "Future[_Visit]"]], epoch: int) -> list[_Visit]:
        """Wait for images, and report those that cannot be read."""
        loaded = []
        for example, future in visits:
            try:
                image = future.result()
            except ImageError as error:
                if error.lasting:
                    self._lost.setdefault(example.key, epoch)
                self._report(example, error.what, error.fix)
            except Exception as error:  # a library bug: the run continues with the other images
                logger.info("Reading %s failed.", example.name, exc_info=True)
                what = f"it cannot be decoded ({type(error).__name__}: {error})."
                self._report(example, what, "Save it again, or replace it.")
            else:
                loaded.append(image)
                if image.has_changed:
                    self._report(example, *CHANGED, kind="changed")
        return loaded

    def _caption(self, example: Example, visit: VisitKey) -> str:
        if happens(example.cond_dropout, self._options.seed, "caption dropout", visit):
            return ""
        return example.caption_at(lambda: rng(self._options.seed, "tags", *visit), self._options.keep_tags)

    def _report(self, example: Example, what: str, fix: str, *, kind: FindingKind = "unusable") -> None:
        if (example.key, kind) not in self._reported:
            self._reported.add((example.key, kind))
            self._is_missing_images = self._is_missing_images or kind == "unusable"
            self._on_problem(Finding(example.name, what, fix, kind=kind, root=example.root, file=example.path))


def _load(example: Example, visit: VisitKey, options: LoaderOptions, latents: TensorCache | None) -> _Visit:
    """Return one visit of an image, from the cache if it is there."""
    if latents is None:
        return _with_pixels(_Visit(example, visit), options)
    crop = crop_of(example, visit, options)
    image = _Visit(example, visit, crop_offset(example.size, crop, example.bucket), cache_key=latent_key(example, crop))
    row = latents.read(image.cache_key)
    return replace(image, posterior=row[POSTERIOR]) if row else _with_pixels(image, options)


def _with_pixels(image: _Visit, options: LoaderOptions) -> _Visit:
    """Return a visit with the pixels of its image, if it has none yet."""
    if image.pixels is not None:
        return image
    loaded = wait_for_handles(lambda: load_image(image.example, image.key, options))
    has_changed = is_changed(image.example)
    return replace(image, pixels=loaded.pixels, offset=loaded.crop, has_changed=has_changed)


def _stacked(images: Sequence[_Visit]) -> tuple[Tensor | None, Tensor | None]:
    """Return the pixels of images that all have some, or else their posteriors."""
    pixels = [image.pixels for image in images if image.pixels is not None]
    if pixels:
        return as_pixels(pixels), None
    return None, torch.stack([image.posterior for image in images if image.posterior is not None])


def as_pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return float32 (B, 3, H, W) in -1 to 1; dividing by 127.5 makes both ends exact."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(torch.float32).div_(127.5).sub_(1)
