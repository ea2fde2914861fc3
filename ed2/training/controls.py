"""Requests to a running training loop. Needs no torch, so that the page starts at once."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from ed2.errors import StopRequested

Request = Literal["save", "sample"]
"""What can be requested besides stop and pause."""


@dataclass
class Controls:
    """Requests to a running loop; safe to call from any thread and from a signal handler."""

    _stop: threading.Event = field(default_factory=threading.Event)
    _pause: threading.Event = field(default_factory=threading.Event)
    _news: threading.Event = field(default_factory=threading.Event)
    _requests: dict[Request, threading.Event] = field(
        default_factory=lambda: {"save": threading.Event(), "sample": threading.Event()}
    )
    _signal: int = 0
    _save: bool = True

    def stop(self, signal_number: int = 0, *, save: bool = True) -> None:
        """End the run after the current step; without saving if any call asked for that."""
        self._signal = signal_number
        self._save = self._save and save
        self._stop.set()
        self._news.set()

    def pause(self) -> None:
        """Pause the run after the current step."""
        self._pause.set()

    def resume(self) -> None:
        """Resume a paused run."""
        self._pause.clear()
        self._news.set()

    def ask(self, request: Request) -> None:
        """Request a checkpoint or samples after the current step."""
        self._requests[request].set()
        self._news.set()

    def take(self) -> list[Request]:
        """The requests since the last call."""
        asked = [request for request, event in self._requests.items() if event.is_set()]
        for request in asked:
            self._requests[request].clear()
        return asked

    def wait(self) -> None:
        """Wait for a request."""
        self._news.wait()
        self._news.clear()

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested; long work outside of training steps checks this."""
        return self._stop.is_set()

    @property
    def pausing(self) -> bool:
        """Whether a pause was requested."""
        return self._pause.is_set()

    @property
    def saving(self) -> bool:
        """Whether to save the run when it stops."""
        return self._save

    def raise_if_stopping(self) -> None:
        """Raise if a stop was requested.

        Raises:
            StopRequested: a stop was requested.
        """
        if self.stopping:
            raise StopRequested(self._signal, save=self._save)
