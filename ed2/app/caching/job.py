"""The pass that fills the caches of a run, as a job that acts before the first step only."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, compress

from ed2.app.caching.caches import Caches
from ed2.app.caching.latents import LatentFiller
from ed2.app.caching.progress import EVERYTHING, FillProgress, FillShare
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.data.cache import TensorCache
from ed2.data.example import Example, Finding
from ed2.data.variants import cache_key
from ed2.disk import plain_reason
from ed2.events import Event, Warned
from ed2.models.base import Part
from ed2.models.families.facts import VAE
from ed2.text import counted
from ed2.training.state import Job, Run, TrainState


@dataclass(frozen=True)
class TextFiller:
    """Adds embeddings to a cache: of every caption that is the same at each visit, encoded by itself as in training.

    Attributes:
        training: the run, as built.
        cache: what is filled.
        spec: which images have the captions.
    """

    training: Run
    cache: TensorCache
    spec: RunSpec

    def fill(self, share: FillShare = EVERYTHING) -> bool:
        """Add what is missing in a share of the cache; returns whether training needs no text encoder then.

        Raises:
            OSError: the cache cannot be written.
            StopRequested: a stop was requested. What is done by then is kept.
        """
        with self.training.precision.autocast():
            keys = self._keys()
            self.cache.touch(list(keys.values()))
            is_missing = self.cache.missing(list(keys.values()))
            missing = {caption: keys[caption] for caption in compress(keys, is_missing)}
            self._encode({caption: key for caption, key in missing.items() if share.has(key)})
        return not self._are_shuffled()

    def is_complete(self) -> bool:
        """Whether nothing is missing, and training needs no text encoder."""
        with self.training.precision.autocast():
            keys = self._keys()
        return not self._are_shuffled() and not any(self.cache.missing(list(keys.values())))

    def _keys(self) -> dict[str, bytes]:
        """The key of each caption that is the same at each visit, and of the empty one."""
        captions = sorted({"", *(example.caption for example in self._examples() if not example.shuffle)})
        return {caption: cache_key(*self.training.model.caption_key(caption)) for caption in captions}

    def _are_shuffled(self) -> bool:
        return any(example.shuffle for example in self._examples())

    def _examples(self) -> list[Example]:
        """The images that are trained or validated."""
        examples = chain(self.spec.dataset.examples, *self.spec.images.curves.values())
        return [example for example in examples if example.multiply > 0]

    def _encode(self, missing: dict[str, bytes]) -> None:
        if not missing:
            return
        progress = FillProgress(self.training, "caching caption", len(missing))
        progress.announce(counted(len(missing), "caption"))
        try:
            for caption, key in missing.items():
                progress.advance()
                self.cache.add(key, self.training.model.encode_captions([caption]).as_row())
        finally:
            self.cache.flush()


@dataclass
class CacheJob(Job):
    """Adds what is missing in the caches before the first step of a new or resumed run."""

    training: Run
    caches: Caches
    spec: RunSpec
    context: RunContext
    name = "caching"

    def due(self, state: TrainState) -> bool:
        """Never: everything is done at the start."""
        return False

    def perform(self, state: TrainState) -> Event | None:
        """Do nothing."""
        return None

    def at_start(self, state: TrainState) -> Event | None:
        """Fill the caches; training goes on without what cannot be written. Raises StopRequested."""
        resting: list[Part] = []
        if self.caches.latents and self._fill_latents(self.caches.latents):
            resting.append(self.training.model.parts[VAE])
        if self.caches.text and self._fill_text(self.caches.text):
            model = self.training.model
            resting += [model.parts[part.name] for part in model.facts.text_encoders]
        self.training.objective.resting.parts = tuple(resting)
        return None

    def _fill_latents(self, cache: TensorCache) -> bool:
        """Whether the cache of latents is complete after filling it."""
        filler = LatentFiller(self.training, cache, self.spec, self.context)
        if self.context.ranks.size == 1:
            return self._fill("latent", filler.fill)
        for share in self._shares():
            self._fill("latent", filler.fill, share)
            self._tell_and_hear(filler)
            cache.refresh()
        return filler.is_complete()

    def _fill_text(self, cache: TensorCache) -> bool:
        """Whether training needs no text encoder after filling the cache of captions."""
        filler = TextFiller(self.training, cache, self.spec)
        if self.context.ranks.size == 1:
            return self._fill("text", filler.fill)
        for share in self._shares():
            self._fill("text", filler.fill, share)
            self.context.ranks.exchange("text cache", {})
            cache.refresh()
        return filler.is_complete()

    def _shares(self) -> list[FillShare]:
        """What this process does: its share of all, and then of what is still missing in the folder of its machine."""
        ranks = self.context.ranks
        return [FillShare(ranks.rank, ranks.size), FillShare(ranks.local_rank, ranks.local_size)]

    def _fill(self, what: str, fill: Callable[[FillShare], bool], share: FillShare = EVERYTHING) -> bool:
        """Whether a share of a cache is complete after filling it."""
        try:
            return fill(share)
        except OSError as error:
            self.training.bus.emit(Warned(self.training.state.step, _not_written(what, plain_reason(error))))
        return False

    def _tell_and_hear(self, filler: LatentFiller) -> None:
        """Tell the others which images cannot be used, and report what they have found."""
        lost, ranks = self.training.state.lost, self.context.ranks
        example_of = {example.key: example for example in self.spec.dataset.examples}
        for message in ranks.exchange("latent cache", {"lost": lost, "reports": filler.reports}):
            for key, epoch in message["lost"].items():
                lost.setdefault(key, epoch)
            for key, what, fix, kind in message["reports"]:
                one = example_of[key]
                self.context.faults(Finding(one.name, what, fix, kind=kind, root=one.root, file=one.path))
        filler.reports.clear()


def _not_written(what: str, reason: str) -> str:
    return (
        f"The {what} cache cannot be completed: {reason}. What is missing in it is computed at each step instead. Free "
        "some space, or set another cache_dir."
    )
