"""The pass that fills the caches of a run, as a job that acts before the first step only."""

from collections.abc import Callable
from dataclasses import dataclass

from ed2.app.caching.caches import Caches
from ed2.app.caching.latents import LatentFiller
from ed2.app.caching.text import TextFiller
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.disk import plain_reason
from ed2.events import Event, Warned
from ed2.models.base import Part
from ed2.models.families.facts import VAE
from ed2.training.state import Job, Run, TrainState


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
