"""Answers that come late: what a person changed since the question was asked stays as it is."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import GradioModel, GradioRootModel

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
