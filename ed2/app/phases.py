"""The phases of a run: which may follow which, and which commands each allows. Decided only here."""

from collections.abc import Mapping
from typing import Literal

from ed2.errors import Ed2Error
from ed2.events import Phase

State = Literal["idle", "preparing", "training", "sampling", "paused", "stopping", "done", "stopped", "failed"]
"""A phase as the page's `data-state` names it; `idle` before the first run."""
Command = Literal["start", "pause", "resume", "stop", "stop without saving", "save now", "sample now"]

RUNNING: tuple[State, ...] = ("training", "sampling")
ACTIVE: frozenset[State] = frozenset(("preparing", *RUNNING, "paused", "stopping"))
"""The states in which a run exists."""
AT_REST: frozenset[State] = frozenset(("idle", "done", "stopped", "failed"))
SHOWN_AS: Mapping[Phase, State] = {"caching": "preparing", "validating": "training"}
"""Phases that the page shows as another one, with the details beside it."""
COMMANDS: Mapping[Command, frozenset[State]] = {
    "start": AT_REST,
    "pause": frozenset(("preparing", *RUNNING)),
    "resume": frozenset(("preparing", "paused", *RUNNING)),
    "stop": frozenset(("preparing", "paused", *RUNNING)),
    "stop without saving": ACTIVE,
    "save now": frozenset(("paused", *RUNNING)),
    "sample now": frozenset(("paused", *RUNNING)),
}
"""The states in which each command is legal."""


class RefusedError(Ed2Error):
    """A command that is not legal in the current state."""


def require_legal(command: Command, state: State) -> None:
    """Raise RefusedError where `command` is not legal in `state`."""
    if state in COMMANDS[command]:
        return
    if command == "stop without saving":
        raise RefusedError("There is no run to discard", "", "")
    raise RefusedError(f"Cannot {command} now", f"the trainer is {state}", "")


def next_state(state: State, phase: Phase) -> State | None:
    """The state after a run announced `phase`; None if it must not follow and is ignored.

    A stopping run can only end, whatever it still does before that, and an ended run no longer stops.
    """
    shown: State = SHOWN_AS.get(phase) or phase  # type: ignore[assignment]
    is_late = state in AT_REST and shown == "stopping"
    is_early = state == "stopping" and shown in ACTIVE
    return None if is_late or is_early else shown
