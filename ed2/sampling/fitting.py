"""Drawing what the memory holds: fewer prompts at a time, then images of half the size, then not all of them."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ed2.models.memory import is_out_of_memory, release_memory
from ed2.models.sd import StableDiffusion
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import Drawn, SampleOptions, draw_samples

logger = logging.getLogger(__name__)


@dataclass
class Fitting:
    """Remembers what the memory has held, so that the next samples begin with it.

    Attributes:
        multiple: what the model asks sides to be a multiple of, in pixels.
        at_once: prompts in one forward pass, at most.
        is_halved: whether images are drawn at half their width and height.
        left_out: numbers of the prompts that did not even fit so, since `told` was asked.
    """

    multiple: int
    at_once: int = 64
    is_halved: bool = False
    left_out: list[int] = field(default_factory=list)
    _is_news: bool = False

    def draw(self, model: StableDiffusion, prompts: Sequence[Prompt], options: SampleOptions) -> Iterator[Drawn]:
        """Draw the prompts in their order; what was drawn before the memory ran out is not drawn again."""
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
                logger.info("The memory did not suffice for samples.", exc_info=True)
            release_memory(model.device)
            self._take_less(left, at_once)

    def told(self) -> str:
        """What did not fit since this was asked before, in a part of a sentence; empty when all did."""
        said = [
            f"{self.at_once} prompt{'s' * (self.at_once > 1)} at a time from now on" if self._is_news else "",
            "images of half the size from now on" if self._is_news and self.is_halved else "",
            f"prompt {', '.join(str(index + 1) for index in self.left_out)} left out" if self.left_out else "",
        ]
        self._is_news, self.left_out = False, []
        return ", ".join(filter(None, said))

    def _take_less(self, left: list[Prompt], at_once: int) -> None:
        if at_once > 1:
            self.at_once, self._is_news = at_once // 2, True
        elif not self.is_halved:
            self.at_once, self.is_halved, self._is_news = 1, True, True
        else:
            self.left_out.append(left.pop(0).index)

    def _sized(self, prompt: Prompt) -> Prompt:
        if not self.is_halved:
            return prompt
        width, height = (max(self.multiple, side // 2 // self.multiple * self.multiple) for side in prompt.size)
        return replace(prompt, size=(width, height))
