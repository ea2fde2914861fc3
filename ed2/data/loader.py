"""Batches of pixels and captions, decoded in advance by threads, in the order of the plan.

All draws for an image depend only on the seed, the epoch, the image and the repeat, so the bytes are the same for any
number of threads and from any starting step.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ed2.data.batch import Batch as Batch
from ed2.data.batch import stacked
from ed2.data.buckets import Size
from ed2.data.cache import TensorCache
from ed2.data.dealing import Dealt, deal
from ed2.data.epoch import EpochPlan, EpochPlanner
from ed2.data.example import Example, Finding, FindingKind
from ed2.data.images import ImageError, ignore_pillow_warnings
from ed2.data.pixels import LoaderOptions, crop_of, crop_offset, is_changed, load_image, require_readable
from ed2.data.variants import VisitKey, happens, latent_key
from ed2.disk_errors import wait_for_handles
from ed2.draws import rng
from ed2.ranks.base import Message, Ranks

logger = logging.getLogger(__name__)

CHANGED = (
    "the file has changed since the run started.",
    "It is trained as it is now, with the caption read at the start, so the run can no longer be repeated exactly.",
)
"""The report on an image whose file has changed, and the consequence."""
POSTERIOR = "posterior"
"""Name of the tensor in a row of a latent cache: mean and standard deviation, (2, C, h, w), fp32."""


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
    dealt: Dealt
    visits: tuple[tuple[Example, "Future[_Visit]"], ...]
    """Empty if another process trains them."""


@dataclass(slots=True)
class _News:
    """What a process has found in its images of a step, for the others."""

    unread: list[tuple[int, int]] = field(default_factory=list)
    """Batches of the step, and the places in them, of images that cannot be read."""
    lost: list[str] = field(default_factory=list)
    """Keys of damaged images."""
    findings: list[tuple[str, str, str, FindingKind]] = field(default_factory=list)
    """Key, what and fix of each report, and its kind."""
    read: list[tuple[str, list[object]]] = field(default_factory=list)
    """Keys of images that were read in full for the first time, and what that showed."""

    def as_message(self) -> Message:
        """For JSON; empty if there is nothing new."""
        return asdict(self) if self.unread or self.lost or self.findings or self.read else {}


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
        ranks: Ranks | None = None,
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
            ranks: the processes that share the batches of each step; None for this one alone.
        """
        ignore_pillow_warnings()
        self._examples = tuple(examples)
        self._example_of = {example.key: example for example in self._examples}
        self._options = options
        self._on_problem = on_problem
        self._lost = {} if lost is None else lost
        self._latents = latents
        self._ranks = ranks or Ranks()
        self._news = _News()
        self._reported: set[tuple[str, FindingKind]] = set()
        self._is_missing_images = False
        self._planner_without = lru_cache(maxsize=2)(self._make_planner)
        self._plan_without = lru_cache(maxsize=2)(self._make_plan)
        self._steps_without = lru_cache(maxsize=None)(self._count_steps)
        self._pool = ThreadPoolExecutor(max_workers=max(1, options.threads), thread_name_prefix="image")
        self._pending: deque[_Loading] = deque()
        self._planned: Iterator[tuple[tuple[int, int], Dealt]] = iter(())
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
        if self._options.reads:
            self._options.reads.save()

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
        Of several processes each decodes its own batches; it gets those of the others without pixels.
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

    def _places(self, epoch: int, start: int) -> Iterator[tuple[tuple[int, int], Dealt]]:
        """Yield every planned batch from here on, across epochs."""
        while self._has_visits(epoch):
            for step, batches in enumerate(self.plan(epoch)[start:], start):
                for dealt in deal(batches, self._ranks.size, one_each=self._options.one_each):
                    yield (epoch, step), dealt
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
        self._next = None  # until the step is complete, so that after an error the next call starts over
        self._is_missing_images = False
        num_lost = len(self._lost)
        self._work_ahead()
        loaded: list[tuple[Dealt, list[_Visit | None]]] = []
        while self._pending and self._pending[0].place == (epoch, step):
            loading = self._pending.popleft()
            loaded.append((loading.dealt, self._finish(loading, len(loaded))))
            self._work_ahead()
        self._exchange_news([images for _, images in loaded], epoch)
        batches = self._batches(loaded)
        self._is_missing_images = self._is_missing_images or not batches
        upcoming = (epoch, step + 1) if step + 1 < len(self.plan(epoch)) else (epoch + 1, 0)
        if len(self._lost) > num_lost and self._pending and self._pending[-1].place[0] > epoch:
            self._move_to(*upcoming)  # what was begun of the next epoch was planned with the damaged images
        self._next = upcoming
        return batches

    def _batches(self, loaded: Sequence[tuple[Dealt, Sequence[_Visit | None]]]) -> list[Batch]:
        batches = []
        for dealt, images in loaded:
            if read := [image for image in images if image]:
                batches.append(self._batch(read, dealt.batch.bucket))
        return batches

    def _work_ahead(self) -> None:
        while len(self._pending) < max(1, self._options.ahead):
            place, batch = next(self._planned, (None, None))
            if place is None or batch is None:
                return
            self._pending.append(self._start(place, batch))

    def _start(self, place: tuple[int, int], dealt: Dealt) -> _Loading:
        if dealt.rank != self._ranks.rank:
            return _Loading(place, dealt, ())
        visits = []
        for example, key in self._keys(dealt, place[0]):
            visits.append((example, self._pool.submit(_load, example, key, self._options, self._latents)))
        return _Loading(place, dealt, tuple(visits))

    def _keys(self, dealt: Dealt, epoch: int) -> Iterator[tuple[Example, VisitKey]]:
        for visit in dealt.batch.visits:
            example = self._examples[visit.example]
            yield example, VisitKey(epoch, example.key, visit.repeat)

    def _finish(self, loading: _Loading, number: int) -> list[_Visit | None]:
        """Wait for the images of the batch with this number in its step; None for one that cannot be read.

        Those of another process are returned without content.
        """
        epoch = loading.place[0]
        if loading.dealt.rank != self._ranks.rank:
            return [_Visit(example, key) for example, key in self._keys(loading.dealt, epoch)]
        images = self._loaded(loading.visits, epoch)
        read = [image for image in images if image]
        if any(image.posterior is None for image in read):  # a batch is encoded as a whole, or not at all
            again = [(image.example, self._pool.submit(_with_pixels, image, self._options)) for image in read]
            whole = iter(self._loaded(again, epoch))
            images = [next(whole) if image else None for image in images]
        self._news.unread += [(number, place) for place, image in enumerate(images) if image is None]
        return images

    def _exchange_news(self, loaded: Sequence[list[_Visit | None]], epoch: int) -> None:
        """Tell the others what was found in the batches of a step, and take out and report what they have found."""
        own, self._news = self._news, _News()
        own.read = self._newly_read()
        for rank, message in enumerate(self._ranks.exchange("images", own.as_message())):
            if rank == self._ranks.rank or not message:
                continue
            for number, place in message["unread"]:
                loaded[number][place] = None
            for key in message["lost"]:
                self._lost.setdefault(key, epoch)
            for key, what, fix, kind in message["findings"]:
                self._report(key, what, fix, kind)
            self._add_read(message["read"])

    def _newly_read(self) -> list[tuple[str, list[object]]]:
        """The images of this loader that were read in full since the last step, and what that showed."""
        if self._options.reads is None or self._ranks.size == 1:  # as one that measures images between two steps
            return []
        found = self._options.reads.take_news()
        own = self._example_of  # others belong to a validation
        return [(one.key, values) for one, values in found if one.key in own and own[one.key].path == one.path]

    def _add_read(self, found: Sequence[tuple[str, list[object]]]) -> None:
        """Remember what another process has read in full."""
        if self._options.reads:
            for key, values in found:
                self._options.reads.add(self._example_of[key], values)

    def _batch(self, images: Sequence[_Visit], bucket: Size) -> Batch:
        pixels, posterior = _stacked(images, pinned=self._options.pinned)
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

    def _loaded(self, visits: Sequence[tuple[Example, "Future[_Visit]"]], epoch: int) -> list[_Visit | None]:
        """Wait for images, and report those that cannot be read, which are None."""
        loaded: list[_Visit | None] = []
        for example, future in visits:
            image = None
            try:
                image = future.result()
            except ImageError as error:
                if error.lasting:
                    self._lost.setdefault(example.key, epoch)
                    self._news.lost.append(example.key)
                self._report_own(example, error.what, error.fix)
            except Exception as error:  # a library bug: the run continues with the other images
                logger.info("Reading %s failed.", example.name, exc_info=True)
                what = f"it cannot be decoded ({type(error).__name__}: {error})."
                self._report_own(example, what, "Save it again, or replace it.")
            else:
                if image.has_changed:
                    self._report_own(example, *CHANGED, kind="changed")
            loaded.append(image)
        return loaded

    def _caption(self, example: Example, visit: VisitKey) -> str:
        if happens(example.cond_dropout, self._options.seed, "caption dropout", visit):
            return ""
        return example.caption_at(lambda: rng(self._options.seed, "tags", *visit), self._options.keep_tags)

    def _report_own(self, example: Example, what: str, fix: str, *, kind: FindingKind = "unusable") -> None:
        self._news.findings.append((example.key, what, fix, kind))
        self._report(example.key, what, fix, kind)

    def _report(self, key: str, what: str, fix: str, kind: FindingKind) -> None:
        if (key, kind) not in self._reported:
            self._reported.add((key, kind))
            self._is_missing_images = self._is_missing_images or kind == "unusable"
            example = self._example_of[key]
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


def _stacked(images: Sequence[_Visit], *, pinned: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the pixels of images that all have some, or else their posteriors; neither if they are elsewhere."""
    pixels = [image.pixels for image in images if image.pixels is not None]
    if pixels:
        return stacked(pixels, pinned=pinned), None
    posteriors = [image.posterior for image in images if image.posterior is not None]
    return None, torch.stack(posteriors) if posteriors else None
