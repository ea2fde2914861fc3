"""Fills a text cache: every caption that is the same at each visit is encoded by itself, as in training."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress

from ed2.app.caching.progress import FillProgress
from ed2.app.run_spec import RunSpec
from ed2.data.cache import TensorCache
from ed2.data.example import Example
from ed2.data.variants import cache_key
from ed2.text import counted
from ed2.training.state import Run


@dataclass(frozen=True)
class TextFiller:
    """Adds the embeddings of a run's captions to a cache.

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
        sets: Iterable[Iterable[Example]] = (self.spec.dataset.examples, *self.spec.images.curves.values())
        return [example for examples in sets for example in examples if example.multiply > 0]

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
