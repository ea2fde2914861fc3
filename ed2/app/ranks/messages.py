"""What a run and the program that has started it tell each other: a JSON object a line, so nothing received is code.

The program sends settings once, then orders. The run sends its events, and at its end what kept it from starting.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from ed2 import errors
from ed2.errors import Ed2Error, Problem, StopRequested
from ed2.events import Event

PipeMessage = Mapping[str, Any]
"""What is sent through the standard input or output of the run: values for JSON."""
EVENTS = {kind.__name__: kind for kind in Event.__subclasses__()}
ERRORS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Ed2Error)}
STOPPED, UNEXPECTED = "stopped", "unexpected"
"""What ends a run, besides errors of `ed2.errors`."""


def encoded(message: PipeMessage) -> bytes:
    """A message as a line; numbers that are not finite and file names that are not valid text pass unchanged."""
    return json.dumps(message, default=str).encode() + b"\n"


def decoded(line: bytes) -> PipeMessage:
    """The message of a line. Raises ValueError where it is torn, as by a process that was killed."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("it is not a JSON object")
    return message


def event_message(event: Event) -> PipeMessage:
    """An event to send."""
    return {"event": type(event).__name__, "values": asdict(event)}


def event_of(message: PipeMessage) -> Event:
    """The event that was sent, the same in all its fields. Raises ValueError."""
    event: Event = _validator(message["event"]).validate_python(message["values"])
    return event


@cache
def _validator(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[name])


def error_message(error: BaseException) -> PipeMessage:
    """What kept a run from starting, to send."""
    if isinstance(error, StopRequested):
        return {"error": STOPPED, "signal": error.signal_number}
    if not isinstance(error, Ed2Error):
        return {"error": UNEXPECTED, "what": f"{type(error).__name__}: {error}"}
    own = {"what": error.what, "why": error.why, "fix": error.fix}
    return {"error": type(error).__name__, **own, "problems": [asdict(problem) for problem in error.problems]}


def error_of(message: PipeMessage) -> BaseException:
    """The error that was sent; one that this program does not know is a plain `Ed2Error`."""
    if message["error"] == STOPPED:
        return StopRequested(message["signal"])
    if message["error"] == UNEXPECTED:
        return Ed2Error(message["what"])
    kind = ERRORS.get(message["error"], Ed2Error)
    error = kind.__new__(kind)
    Ed2Error.__init__(error, message["what"], message["why"], message["fix"])
    error.problems = tuple(Problem(**problem) for problem in message["problems"])
    return error
