"""What a browser may send to a handler: a known one, with as many values as it takes, none of them too long."""

import json
import math
from collections.abc import Mapping
from typing import Any

MAX_NAME = 100
"""Characters of the name of a page."""


def call_problem(body: bytes, functions: Mapping[int, Any], max_text: int) -> str:
    """Why a call is refused; empty if it is not.

    Args:
        body: as it was sent.
        functions: Gradio's, by number.
        max_text: characters that one value may have, if it is a text.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return "The request is not valid JSON."
    match call:
        case {"fn_index": int(number), "data": list(data), "session_hash": str(name)} if len(name) <= MAX_NAME:
            function = functions.get(number)
        case _:
            return "The request is incomplete."
    if function is None or function.fn is None:
        return "The page has no such function."
    if call.get("batched") or len(data) != len(function.inputs):
        return "The request has the wrong number of values."
    is_whole = all(_is_allowed(value, max_text) for value in data)
    return "" if is_whole else "A value of the request is too long."


def _is_allowed(value: object, max_text: int) -> bool:
    if isinstance(value, str):
        return len(value) <= max_text
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int) or len(json.dumps(value)) <= max_text
