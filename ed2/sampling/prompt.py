"""Sample prompts, and the options of a file of them."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_PROMPTS = 256
"""The most prompts drawn from one file."""
MAX_WORK = 250_000
"""The most work for one file, as `Prompt.work` counts it: a few hours. Prompts that would exceed it are left out."""
CFGS = (1.0, 4.0, 7.0)
SAMPLER, NUM_STEPS = "dpm++_2m_k", 20
"""Sampler and denoising steps of a sample: of second order, so that 20 steps come as close as 30 of DDIM."""
SAMPLER_AT_ZERO_SNR = "dpm++_2m"
"""Used in place of `SAMPLER`, whose spacing would spend two thirds of the steps where there is nothing but noise."""


@dataclass(frozen=True)
class Prompt:
    """One image to draw, once for each CFG value.

    Attributes:
        index: its place in the file, from 0; also the name of its image.
        size: width and height in pixels.
        cfgs: strengths of guidance, one tile each; 1 is the prediction without guidance.
        sampler: a name in `SAMPLERS`; None for the default one.
        num_steps: denoising steps; None for the default number.
        trained: the key of a training image that has this caption; empty if none has.
    """

    index: int
    prompt: str
    seed: int
    size: tuple[int, int]
    negative_prompt: str = ""
    cfgs: tuple[float, ...] = CFGS
    sampler: str | None = None
    num_steps: int | None = None
    trained: str = ""

    @property
    def work(self) -> float:
        """How many images of 512 x 512 pass through the UNet for it; guidance needs two in each step."""
        passes = 2 * len(self.cfgs) - self.cfgs.count(1)
        return passes * (self.num_steps or NUM_STEPS) * self.size[0] * self.size[1] / 512**2


@dataclass(frozen=True)
class PromptDefaults:
    """Values for prompts that do not set their own.

    Attributes:
        multiple: sides must be a multiple of this, in pixels.
        captions: of the training images, for random captions.
        step: keys random captions and seeds.
    """

    seed: int
    size: tuple[int, int]
    multiple: int = 64
    captions: Sequence[str] = ()
    step: int = 0


@dataclass(frozen=True)
class FileOptions:
    """What a JSON file sets besides its prompts; None leaves it to the settings.

    Attributes:
        batch_size: prompts in one forward pass.
        sample_steps: optimizer steps between samples.
        before_training: whether to draw samples before the first step.
    """

    batch_size: int | None = None
    sample_steps: int | None = None
    before_training: bool = True


def cleaned(text: str) -> str:
    """The text, stripped, with control characters as spaces."""
    for letter in set(text):
        if not letter.isprintable():
            text = text.replace(letter, " ")
    return text.strip()


def rounded_size(width: float, height: float, multiple: int) -> tuple[int, int]:
    """The nearest size whose sides are multiples of `multiple`, in pixels, at least one each."""
    return max(1, round(width / multiple)) * multiple, max(1, round(height / multiple)) * multiple
