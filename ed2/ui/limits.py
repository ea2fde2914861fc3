"""Limits: a password a second after five wrong ones, how often strangers fetch the login, and what a call may hold."""

import asyncio
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

FREE_TRIES = 5
WAIT_SECONDS = 1.0
FORGOTTEN_AFTER_SECONDS = 300.0
LOG_SECONDS = 60.0
MAX_ADDRESSES = 1000
TRIES_IN_ALL = 4
"""All addresses together may try as often as so many alone."""
DOCUMENTS_PER_SECOND, DOCUMENTS_AT_ONCE = 10.0, 40
"""How often strangers get the document with the login."""
MAX_NAME = 100
"""Characters of the name of a page."""


@dataclass
class Tries:
    """The passwords of an address that were looked at and not found to be right.

    Attributes:
        next_at: when the next password is looked at.
        is_one_waiting: one more is waiting for that; until then others are refused.
    """

    count: int = 0
    last_at: float = 0.0
    next_at: float = 0.0
    is_one_waiting: bool = False


class LoginLimit:
    """Counts passwords before they are looked at, so that many at once are no way around it.

    Sessions that are logged in never come here.
    """

    def __init__(self) -> None:
        self._tries: OrderedDict[str, Tries] = OrderedDict()
        self._logged_at = -LOG_SECONDS
        self._unlogged = 0

    async def admit(self, address: str) -> bool:
        """Whether a password of this address may be looked at, after waiting for a second where it has to."""
        pairs = ((self._of(address), FREE_TRIES), (self._of(""), FREE_TRIES * TRIES_IN_ALL))
        for tries, free in pairs:
            pause = WAIT_SECONDS * FREE_TRIES / free
            if tries.count >= free and not await _wait(tries, pause):
                return False
            tries.count, tries.last_at = tries.count + 1, time.monotonic()
        return True

    def wrong(self, address: str) -> None:
        """Say in the log that a password was wrong: at the fifth of an address, and then once a minute."""
        now = time.monotonic()
        self._unlogged += 1
        is_many = self._of(address).count >= FREE_TRIES
        if is_many and now - self._logged_at >= LOG_SECONDS:
            number = self._unlogged
            logger.warning("%d wrong passwords on a page, last from %s. More are slowed down.", number, address)
            self._logged_at, self._unlogged = now, 0

    def right(self, address: str) -> None:
        """Forget the wrong passwords of an address that knows the right one."""
        self._tries.pop(address, None)
        in_all = self._of("")
        in_all.count = max(0, in_all.count - 1)

    def _of(self, address: str) -> Tries:
        tries = self._tries.get(address)
        if tries is None or (tries.count and time.monotonic() - tries.last_at > FORGOTTEN_AFTER_SECONDS):
            tries = Tries()
        self._tries[address] = tries
        self._tries.move_to_end(address)
        if len(self._tries) > MAX_ADDRESSES:
            self._tries.popitem(last=False)
        return tries


async def _wait(tries: Tries, pause: float) -> bool:
    """Wait for the next turn, `pause` seconds after the last; false if somebody waits for it already."""
    if tries.is_one_waiting:  # even where the turn has come: on a busy computer it is still theirs
        return False
    wait = tries.next_at - time.monotonic()
    if wait > 0:
        tries.is_one_waiting = True
        try:
            await asyncio.sleep(wait)
        finally:
            tries.is_one_waiting = False
    tries.next_at = time.monotonic() + pause
    return True


class DocumentLimit:
    """Bounds how often the document with the login is made, whoever asks: through a share link all have one address."""

    def __init__(self) -> None:
        self._left, self._at = float(DOCUMENTS_AT_ONCE), time.monotonic()

    def admit(self) -> bool:
        """Whether one more may be made now."""
        now = time.monotonic()
        self._left = min(DOCUMENTS_AT_ONCE, self._left + (now - self._at) * DOCUMENTS_PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


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
