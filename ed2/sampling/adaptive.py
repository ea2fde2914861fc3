"""Drawing samples in whatever memory there is."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ed2.models.base import DiffusionModel
from ed2.models.memory import is_out_of_memory, release_memory
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import Drawn, SampleOptions, draw_samples
from ed2.text import counted

logger = logging.getLogger(__name__)


@dataclass
class AdaptiveSampler:
    """Draws what fits into memory: fewer prompts at a time, then images of half the size, then only some prompts.

    It remembers what fitted, and starts the next samples with that.

    Attributes:
        multiple: sides must be a multiple of this, in pixels.
        at_once: prompts in one forward pass, at most.
        is_halved: whether images are drawn at half their width and height.
        left_out: indices of the prompts that did not fit even so, since the last `take_news`.
    """

    multiple: int
    at_once: int = 64
    is_halved: bool = False
    left_out: list[int] = field(default_factory=list)
    _is_reduced: bool = False
    _news_elsewhere: str = ""

    def draw(self, model: DiffusionModel, prompts: Sequence[Prompt], options: SampleOptions) -> Iterator[Drawn]:
        """Draw the prompts in their order; those drawn before memory ran out are not drawn again."""
        left = list(prompts)
        while left:
            at_once = min(self.at_once, options.batch_size, len(left))
            try:
                for drawn in draw_samples(model, list(map(self._sized, left)), replace(options, batch_size=at_once)):
                    del left[0]
                    yield drawn
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.info("Out of memory while drawing samples.", exc_info=True)
            release_memory(model.device)
            self._reduce(left, at_once)

    def take_news(self) -> str:
        """What was reduced since the last call, as part of a sentence; empty if nothing was."""
        news = []
        if self._is_reduced:
            news.append(f"{counted(self.at_once, 'prompt')} at a time from now on")
            if self.is_halved:
                news.append("images of half the size from now on")
        if self.left_out:
            news.append(f"prompt {', '.join(str(index + 1) for index in self.left_out)} left out")
        if self._news_elsewhere:
            news.append(self._news_elsewhere)
        self._is_reduced, self.left_out, self._news_elsewhere = False, [], ""
        return ", ".join(news)

    def add_news(self, news: str) -> None:
        """Add the news of another process, if it has some."""
        self._news_elsewhere = self._news_elsewhere or news

    def _reduce(self, left: list[Prompt], at_once: int) -> None:
        if at_once > 1:
            self.at_once, self._is_reduced = at_once // 2, True
        elif not self.is_halved:
            self.at_once, self.is_halved, self._is_reduced = 1, True, True
        else:
            self.left_out.append(left.pop(0).index)

    def _sized(self, prompt: Prompt) -> Prompt:
        if not self.is_halved:
            return prompt
        width, height = (max(self.multiple, side // 2 // self.multiple * self.multiple) for side in prompt.size)
        return replace(prompt, size=(width, height))
