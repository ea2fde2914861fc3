"""Fills caches: every image is encoded by the VAE, once for each of its fixed crops, and every caption that stays."""

import errno
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, compress, islice, starmap
from typing import NamedTuple
from zlib import crc32

import torch

from ed2.app.images.scanning import TimeLeft, decode_threads
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.checkpoint.room import existing
from ed2.data.batch import as_numbers, stacked
from ed2.data.cache import TensorCache
from ed2.data.example import Example, Finding, FindingKind
from ed2.data.images import ImageError
from ed2.data.loader import CHANGED, POSTERIOR
from ed2.data.pixels import LoadedImage, is_changed, load_crops
from ed2.data.variants import Crop, cache_key, fixed_crops, latent_key
from ed2.disk_errors import wait_for_handles
from ed2.events import PhaseChanged, Progressed
from ed2.text import counted, file_size
from ed2.training.loop import handle_requests
from ed2.training.state import Run

REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class FillShare:
    """What one of several processes does of a pass, whatever the others find missing."""

    place: int = 0
    count: int = 1

    def has(self, key: bytes) -> bool:
        """Whether what this key names is in the share."""
        return crc32(key) % self.count == self.place


EVERYTHING = FillShare()


@dataclass
class FillProgress:
    """Reports how far a pass is, and does what was requested in the meantime.

    Attributes:
        doing: what the pass does, such as "caching image".
        total: how many times `advance` is called.
    """

    run: Run
    doing: str
    total: int
    done: int = 0
    _reported_at: float = 0.0

    def __post_init__(self) -> None:
        self._time_left = TimeLeft()
        self._time_left.suffix(0, self.total)

    def announce(self, detail: str) -> None:
        """Enter the phase; `detail` is for people."""
        self.run.bus.emit(PhaseChanged(self.run.state.step, "caching", detail))

    def advance(self) -> None:
        """Count one more. Raises StopRequested."""
        run = self.run
        was_pausing = run.controls.pausing
        handle_requests(run)
        self.done += 1
        if was_pausing:
            self.announce(f"{self.doing} {self.done:,} of {self.total:,}")
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = time.monotonic()
            left = self._time_left.suffix(self.done, self.total)
            run.bus.emit(Progressed(run.state.step, self.doing, self.done, self.total, left))


class Missing(NamedTuple):
    """What a cache does not have of one image."""

    example: Example
    crops: dict[bytes, Crop] | None
    """By their keys; None until the file is read, since a key is made of its content."""


@dataclass(frozen=True)
class LatentFiller:
    """Adds the latents of a run's images to a cache; `reports` has key, what, fix and kind of each damaged image."""

    run: Run
    cache: TensorCache
    spec: RunSpec
    context: RunContext
    reports: list[tuple[str, str, str, FindingKind]] = field(default_factory=list)

    def fill(self, share: FillShare = EVERYTHING) -> bool:
        """Add what is missing in a share of the cache; returns whether that is complete then.

        Raises:
            OSError: the cache cannot be written.
            StopRequested: a stop was requested. What is done by then is kept.
        """
        trained = list(filter(self._is_trained, self.spec.dataset.examples))
        missing = self._missing([one for one in trained if one.digest])
        missing += [Missing(one, None) for one in trained if not one.digest]
        missing = [one for one in missing if share.has(one.example.key.encode())]
        if not missing:
            return True
        progress = FillProgress(self.run, "caching image", len(missing))
        progress.announce(self._size(missing))
        # Images of one size after another, so that a shard holds many rows.
        missing.sort(key=lambda one: one.example.bucket)
        is_complete = True
        try:
            for one, images in self._decoded(missing):
                progress.advance()
                if images is None:
                    is_complete = is_complete and one.example.key in self.run.state.lost
                else:
                    self._encode(images)
        finally:
            self.cache.flush()
            self.context.reads.save()
        return is_complete

    def _is_trained(self, example: Example) -> bool:
        return example.multiply > 0 and example.key not in self.run.state.lost

    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        try:
            return not self._missing(filter(self._is_trained, self.spec.dataset.examples))
        except OSError:  # the content of an image is unknown, which is reported at its first visit
            return False

    def _crops(self, example: Example) -> dict[bytes, Crop]:
        """The crops of an image by their keys. Raises OSError if its content is neither known nor readable."""
        crops = fixed_crops(example, self.spec.settings.memory.cache_variants)
        return {latent_key(example, crop): crop for crop in crops}

    def _missing(self, examples: Iterable[Example]) -> list[Missing]:
        """What is missing of each image whose content is known; the shards with the rest count as used now."""
        wanted: dict[bytes, tuple[Example, Crop]] = {}  # a copy of an image has the same keys
        for example in examples:
            for key, crop in self._crops(example).items():
                wanted.setdefault(key, (example, crop))
        keys = list(wanted)
        self.cache.touch(keys)
        by_image: dict[str, tuple[Example, dict[bytes, Crop]]] = {}
        for key in compress(keys, self.cache.missing(keys)):
            example, crop = wanted[key]
            by_image.setdefault(example.key, (example, {}))[1][key] = crop
        return list(starmap(Missing, by_image.values()))

    def _size(self, missing: Sequence[Missing]) -> str:
        """How much is added, at most, and where. Raises OSError if there is no room for it."""
        count = self.spec.settings.memory.cache_variants
        num_crops = num_bytes = num_required = 0
        for one in missing:
            own = count if one.crops is None else len(one.crops)
            num_crops += own
            num_bytes += self._row_bytes(one.example) * own
            num_required += self._row_bytes(one.example) * len(one.crops or {})
        if num_required > shutil.disk_usage(existing(self.cache.folder)).free:
            raise OSError(errno.ENOSPC, f"{file_size(num_required)} are needed")
        at_most = "up to " if any(one.crops is None for one in missing) else ""
        what = f"{at_most}{counted(num_crops, 'crop')} of {counted(len(missing), 'image')}, {file_size(num_bytes)}"
        return f"{what} in {self.spec.settings.memory.cache_dir}"

    def _row_bytes(self, example: Example) -> int:
        """Bytes of one crop in the cache."""
        model = self.run.model
        width, height = (side // model.downscale for side in example.bucket)
        return 2 * 4 * model.facts.latent_channels * width * height

    def _decoded(self, missing: Iterable[Missing]) -> Iterator[tuple[Missing, dict[bytes, LoadedImage] | None]]:
        """Yield each image with its missing crops, decoded ahead in threads; None if it cannot be used."""
        threads = decode_threads(self.spec.settings, self.context.ranks.local_size)
        waiting: deque[tuple[Missing, Future[dict[bytes, LoadedImage]]]] = deque()
        todo = iter(missing)
        with ThreadPoolExecutor(threads, thread_name_prefix="image") as pool:
            try:
                while True:
                    for one in islice(todo, max(0, 2 * threads - len(waiting))):
                        waiting.append((one, pool.submit(self._load, one)))
                    if not waiting:
                        return
                    one, future = waiting.popleft()
                    yield one, self._outcome(one.example, future)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, one: Missing) -> dict[bytes, LoadedImage]:
        """Decode the missing crops of an image. Raises ImageError, and OSError if its content cannot be read."""
        crops = one.crops
        if crops is None:
            found = self._crops(one.example)
            self.cache.touch(list(found))
            crops = {key: found[key] for key in compress(found, self.cache.missing(list(found)))}
        own, background, reads = list(crops.values()), self.spec.settings.data.alpha_background, self.context.reads
        images = wait_for_handles(lambda: load_crops(one.example, own, background, reads))
        return dict(zip(crops, images, strict=True))

    def _outcome(self, example: Example, future: "Future[dict[bytes, LoadedImage]]") -> dict[bytes, LoadedImage] | None:
        """The crops of an image; None if it is damaged, which is recorded, or has changed since the run started."""
        try:
            images = future.result()
        except ImageError as error:
            if error.lasting:
                self.run.state.lost.setdefault(example.key, self.run.state.epoch)
            self._report(example, error.what, error.fix)
            return None
        except OSError:  # reported at its first visit
            return None
        if is_changed(example):  # its rows would be kept as those of what it was
            self._report(example, *CHANGED, kind="changed")
            return None
        return images

    def _encode(self, images: Mapping[bytes, LoadedImage]) -> None:
        """Add crops to the cache, unless those of a copy of the image were added meanwhile."""
        keys = list(compress(images, self.cache.missing(list(images))))
        if not keys:
            return
        run = self.run
        pixels = as_numbers(stacked([images[key].pixels for key in keys]), run.objective.device)
        posterior = run.model.encode_pixels(pixels)
        rows = torch.stack([posterior.mean, posterior.std], dim=1).to("cpu")
        for key, row in zip(keys, rows, strict=True):
            self.cache.add(key, {POSTERIOR: row})

    def _report(self, example: Example, what: str, fix: str, *, kind: FindingKind = "unusable") -> None:
        self.reports.append((example.key, what, fix, kind))
        self.context.faults(Finding(example.name, what, fix, kind=kind, root=example.root, file=example.path))


@dataclass(frozen=True)
class TextFiller:
    """Adds embeddings to a cache: of every caption that is the same at each visit, encoded by itself as in training."""

    run: Run
    cache: TensorCache
    spec: RunSpec

    def fill(self, share: FillShare = EVERYTHING) -> bool:
        """Add what is missing in a share of the cache; returns whether training needs no text encoder then.

        Raises:
            OSError: the cache cannot be written.
            StopRequested: a stop was requested. What is done by then is kept.
        """
        with self.run.precision.autocast():
            keys = self._keys()
            self.cache.touch(list(keys.values()))
            is_missing = self.cache.missing(list(keys.values()))
            missing = {caption: keys[caption] for caption in compress(keys, is_missing)}
            self._encode({caption: key for caption, key in missing.items() if share.has(key)})
        return not self._are_shuffled()

    def is_complete(self) -> bool:
        """Whether nothing is missing, and training needs no text encoder."""
        with self.run.precision.autocast():
            keys = self._keys()
        return not self._are_shuffled() and not any(self.cache.missing(list(keys.values())))

    def _keys(self) -> dict[str, bytes]:
        """The key of each caption that is the same at each visit, and of the empty one."""
        captions = sorted({"", *(example.caption for example in self._examples() if not example.shuffle)})
        return {caption: cache_key(*self.run.model.caption_key(caption)) for caption in captions}

    def _are_shuffled(self) -> bool:
        return any(example.shuffle for example in self._examples())

    def _examples(self) -> list[Example]:
        """The images that are trained or validated."""
        examples = chain(self.spec.dataset.examples, *self.spec.images.curves.values())
        return [example for example in examples if example.multiply > 0]

    def _encode(self, missing: dict[str, bytes]) -> None:
        if not missing:
            return
        progress = FillProgress(self.run, "caching caption", len(missing))
        progress.announce(counted(len(missing), "caption"))
        try:
            for caption, key in missing.items():
                progress.advance()
                self.cache.add(key, self.run.model.encode_captions([caption]).as_row())
        finally:
            self.cache.flush()
