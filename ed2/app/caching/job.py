"""The pass that fills the caches of a run, as a job that acts before the first step only."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, compress

from ed2.app.caching.caches import Caches
from ed2.app.caching.latents import LatentFiller
from ed2.app.caching.progress import FillProgress
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.data.cache import TensorCache
from ed2.data.example import Example
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

    def fill(self) -> bool:
        """Add what is missing; returns whether training needs no text encoder then.

        Raises:
            OSError: the cache cannot be written.
            StopRequested: a stop was requested. What is done by then is kept.
        """
        examples = self._examples()
        captions = sorted({"", *(example.caption for example in examples if not example.shuffle)})
        with self.training.precision.autocast():
            keys = {caption: cache_key(*self.training.model.caption_key(caption)) for caption in captions}
            self.cache.touch(list(keys.values()))
            is_missing = self.cache.missing(list(keys.values()))
            self._encode({caption: keys[caption] for caption in compress(keys, is_missing)})
        return not any(example.shuffle for example in examples)

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
        if self.caches.latents:
            filler = LatentFiller(self.training, self.caches.latents, self.spec, self.context)
            if self._fill("latent", filler.fill):
                resting.append(self.training.model.parts[VAE])
        if self.caches.text and self._fill("text", TextFiller(self.training, self.caches.text, self.spec).fill):
            model = self.training.model
            resting += [model.parts[part.name] for part in model.facts.text_encoders]
        self.training.objective.resting.parts = tuple(resting)
        return None

    def _fill(self, what: str, fill: Callable[[], bool]) -> bool:
        """Whether a cache is complete after filling it."""
        try:
            return fill()
        except OSError as error:
            self.training.bus.emit(Warned(self.training.state.step, _not_written(what, plain_reason(error))))
        return False


def _not_written(what: str, reason: str) -> str:
    return (
        f"The {what} cache cannot be completed: {reason}. What is missing in it is computed at each step instead. Free "
        "some space, or set another cache_dir."
    )
