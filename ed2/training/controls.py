"""What people ask of a running loop. Without torch, so that the page starts at once."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from ed2.errors import StopRequested

Request = Literal["save", "sample"]
"""What may be asked for beside stop and pause."""


@dataclass
class Controls:
    """What people ask of a running loop; safe to call from any thread and from a signal handler."""

    _stop: threading.Event = field(default_factory=threading.Event)
    _pause: threading.Event = field(default_factory=threading.Event)
    _news: threading.Event = field(default_factory=threading.Event)
    _requests: dict[Request, threading.Event] = field(
        default_factory=lambda: {"save": threading.Event(), "sample": threading.Event()}
    )
    _signal: int = 0
    _save: bool = True

    def stop(self, signal_number: int = 0, *, save: bool = True) -> None:
        """Ask the run to end after the present step; without saving if that was said once."""
        self._signal = signal_number
        self._save = self._save and save
        self._stop.set()
        self._news.set()

    def pause(self) -> None:
        """Ask the run to wait after the present step."""
        self._pause.set()

    def resume(self) -> None:
        """Let a waiting run go on."""
        self._pause.clear()
        self._news.set()

    def ask(self, request: Request) -> None:
        """Ask for a checkpoint or for samples after the present step."""
        self._requests[request].set()
        self._news.set()

    def take(self) -> list[Request]:
        """What was asked for since the last call."""
        asked = [request for request, event in self._requests.items() if event.is_set()]
        for request in asked:
            self._requests[request].clear()
        return asked

    def wait(self) -> None:
        """Wait for something to be asked for."""
        self._news.wait()
        self._news.clear()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for; long work that is no training step looks here."""
        return self._stop.is_set()

    @property
    def pausing(self) -> bool:
        """Whether the run is to wait."""
        return self._pause.is_set()

    @property
    def saving(self) -> bool:
        """Whether a stopped run is to be saved."""
        return self._save

    def raise_if_stopping(self) -> None:
        """Leave if a stop was asked for.

        Raises:
            StopRequested: a stop was asked for.
        """
        if self.stopping:
            raise StopRequested(self._signal, save=self._save)
