"""The pass that fills the caches of a run, as a job that acts before the first step only."""

from dataclasses import dataclass

from ed2.app.caching.caches import Caches
from ed2.app.caching.latents import LatentFiller
from ed2.app.jobs import RunContext
from ed2.app.run_spec import RunSpec
from ed2.disk import plain_reason
from ed2.events import Event, Warned
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
        latents = self.caches.latents
        if latents:
            try:
                LatentFiller(self.training, latents, self.spec, self.context).fill()
            except OSError as error:
                return Warned(state.step, _not_written("latent", plain_reason(error)))
        return None


def _not_written(what: str, reason: str) -> str:
    return (
        f"The {what} cache cannot be completed: {reason}. What is missing in it is computed at each step instead. Free "
        "some space, or set another cache_dir."
    )
