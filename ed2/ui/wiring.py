"""How the controls are connected to the program, so that a late answer never undoes what was changed meanwhile."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import GradioModel, GradioRootModel

from ed2.ui.labels import on_page

logger = logging.getLogger(__name__)

TICK: Mapping[str, Any] = {
    "queue": False, "show_progress": "hidden", "trigger_mode": "once", "api_visibility": "private",
    "concurrency_limit": None,
}  # fmt: skip
"""A tick costs next to nothing and waits for nothing."""
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""A quick answer that has nothing to say: what does not pass the queue can show no message (Gradio 6.31)."""
SPOKEN: Mapping[str, Any] = {
    "show_progress": "hidden", "api_visibility": "private", "concurrency_id": "control",
}  # fmt: skip
"""What a person asks for, and may be told that it cannot be; one after the other."""


ASK = "(_, ...held) => [JSON.stringify(%s.map(place => held[place])), ...held]"
TAKE = """(answer, ...held) => { const {asked, offered} = JSON.parse(answer), before = JSON.parse(asked || '[]');
  const isKept = held.map((value, n) => JSON.stringify(value) !== JSON.stringify(before[n]));
  const none = %s && isKept.some(Boolean);
  return offered.map((value, n) => none || isKept[n] ? {__type__: 'update'} : value); }"""


def fill(
    event: Any, answer: Callable[..., Sequence[Any]], inputs: Sequence[Any], edited: Sequence[Any],
    others: Sequence[Any] = (), is_whole: bool = False, **how: Any,
) -> Any:  # fmt: skip
    """Have an event fill controls that a person may change while the answer is awaited.

    The answer is an offer: the browser takes it for each control that holds what it held when the question was asked.

    Args:
        event: such as `button.click`.
        answer: gives a value for each of `edited`, then for each of `others`.
        inputs: what it wants to know; all of `edited` are among them.
        edited: the controls.
        others: outputs that nobody else changes.
        is_whole: take all of it or nothing.
        how: what the event takes beside.

    Returns:
        The event of the filling.
    """
    places = [next(n for n, given in enumerate(inputs) if given is control) for control in edited]
    letter = gr.Textbox(visible=False)

    def offer(asked: str, *held: Any) -> Any:
        made = list(answer(*held))
        offered = [_sent(control, value) for control, value in zip(edited, made, strict=False)]
        text = json.dumps({"asked": asked, "offered": offered})
        return [text, *made[len(edited) :]] if others else text

    answered = event(offer, [letter, *inputs], [letter, *others], js=ASK % places, **how)
    taken = TAKE % json.dumps(is_whole)
    return answered.success(None, [letter, *edited], list(edited), js=taken, api_visibility="private")


def _sent(control: Any, value: Any) -> Any:
    """A value as the browser holds it; that a control is left alone stays as it is."""
    if isinstance(value, dict) and value.get("__type__") == "update":
        return value
    made = control.postprocess(value)
    return made.model_dump() if isinstance(made, GradioModel | GradioRootModel) else made


def never_raising(tick: Callable[..., list[Any]], num_outputs: int) -> Callable[..., list[Any]]:
    """A tick whose faults go to the log and change nothing: a message a second would bury the page."""

    def careful(*inputs: Any) -> list[Any]:
        try:
            return tick(*inputs)
        except Exception:
            logger.exception("The page could not be brought up to date.")
            return [gr.skip()] * num_outputs

    return careful


def refusal(text: str) -> gr.Error:
    """An error to raise that tells a person something; it is no fault of the program."""
    return gr.Error(on_page(text), duration=10, print_exception=False)
