"""How the page's controls are connected to the program."""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import GradioModel, GradioRootModel

from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error
from ed2.ui.html import on_page

logger = logging.getLogger(__name__)

Updates = dict[Any, Any]
"""What a handler changes: a value by its component. A component that is not named stays as it is."""
Values = Mapping[Any, Any]
"""What a handler is given: the value by its component."""

HIDDEN: Mapping[str, Any] = {"show_progress": "hidden", "show_progress_on": (), "api_visibility": "private"}
"""Shows no progress, and keeps none: at each event Gradio 6.31 looks up and sets every component that ever had some."""
QUIET: Mapping[str, Any] = {**HIDDEN, "queue": False}
"""A quick answer without a message: what bypasses the queue cannot show one (Gradio 6.31)."""
TICK: Mapping[str, Any] = {**QUIET, "trigger_mode": "once", "concurrency_limit": None, "preprocess": False}
"""A tick costs next to nothing and waits for nothing; it looks itself at what the browser sent."""
SPOKEN: Mapping[str, Any] = {**HIDDEN, "concurrency_id": "control"}
"""User actions, one after the other; they may be refused with a message."""
FOLLOWING: Mapping[str, Any] = {**SPOKEN, "preprocess": False}
"""Follows a change by the program, when a page may still hold a choice that Gradio no longer lists and would refuse."""
SLOW: Mapping[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "concurrency_id": "slow"}
"""Actions that take seconds, in their own queue, with a progress indicator."""


def fill(
    event: Any,
    answer: Callable[..., Updates],
    inputs: Sequence[Any],
    edited: Sequence[Any],
    others: Sequence[Any] = (),
    is_whole: bool = False,
    **how: Any,
) -> Any:
    """Have an event fill controls that a person may change while the answer is on its way.

    The answer is an offer: the browser takes it for each control that still holds what it held when it asked.

    Args:
        event: such as `button.click`.
        answer: takes the request and the values of `inputs` by control, and returns updates of `edited` and `others`.
        inputs: the controls whose values it needs; all of `edited` are among them.
        edited: the controls to fill.
        others: outputs that nobody else changes. Of a control that is in `edited` too, the answer is a `gr.update`: its
            value is offered, the rest is set.
        is_whole: take all of it or nothing.
        how: further arguments of the event.

    Returns:
        The event of the filling.
    """
    places = [inputs.index(control) for control in edited]
    carrier = gr.Textbox(visible=False)  # Gradio 6.31 gives an answer to a component, never to JavaScript alone

    def offer(request: gr.Request, asked: str, *values: Any) -> Updates:
        updates = answer(request, dict(zip(inputs, values, strict=True)))
        offered = [_as_sent(control, updates.get(control, gr.skip())) for control in edited]
        made = {other: updates[other] for other in others if other in updates}
        for control in made.keys() & set(edited):
            made[control] = {name: value for name, value in made[control].items() if name != "value"}
        return {carrier: json.dumps({"asked": asked, "offered": offered}), **made}

    answered = event(offer, [carrier, *inputs], [carrier, *others], js=f"ed.ask({places})", **how)
    js = f"ed.take({json.dumps(is_whole)})"
    return answered.success(None, [carrier, *edited], list(edited), js=js, api_visibility="private")


def _as_sent(control: Any, value: Any) -> Any:
    """A value as the browser holds it; of an update its value, if it has one."""
    if isinstance(value, dict) and value.get("__type__") == "update":
        return {name: value[name] for name in ("__type__", "value") if name in value}
    made = control.postprocess(value)
    return made.model_dump() if isinstance(made, GradioModel | GradioRootModel) else made


def never_raising(tick: Callable[..., Updates]) -> Callable[..., Updates]:
    """The same tick, but its errors go to the log and change nothing: a message a second would bury the page."""

    @functools.wraps(tick)
    def careful(*inputs: Any) -> Updates:
        try:
            return tick(*inputs)
        except Exception:
            logger.exception("The page could not be updated.")
            return gr.skip()

    return careful


@contextlib.contextmanager
def refusing(failure: str = "") -> Iterator[None]:
    """Show a person why an action failed. `failure` begins the message of an OSError; without it, that is raised."""
    try:
        yield
    except Ed2Error as error:
        raise refusal(str(error)) from None
    except OSError as error:
        if not failure:
            raise
        raise refusal(f"{failure}: {plain_reason(error)}.") from None


def refusal(text: str) -> gr.Error:
    """An error to raise that tells a person why something is refused; the program is not at fault."""
    return gr.Error(on_page(text), duration=10, print_exception=False)
