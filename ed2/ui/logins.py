"""Slows down those who try passwords: a second after five wrong ones, by address and in all."""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

logger = logging.getLogger(__name__)

FREE_TRIES = 5
WAIT_SECONDS = 1.0
FORGOTTEN_AFTER_SECONDS = 300.0
LOG_SECONDS = 60.0
MAX_ADDRESSES = 1000
TRIES_IN_ALL = 4
"""All addresses together may try as often as so many alone."""


@dataclass
class Tries:
    """The wrong passwords of an address.

    Attributes:
        next_at: when the next password is looked at.
        is_one_waiting: one more is waiting for that; others are refused meanwhile.
    """

    count: int = 0
    last_at: float = 0.0
    next_at: float = 0.0
    is_one_waiting: bool = False


class LoginLimit:
    """Counts wrong passwords; sessions that are logged in never come here."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, Tries] = OrderedDict()
        self._logged_at = -LOG_SECONDS
        self._unlogged = 0

    async def admit(self, address: str) -> bool:
        """Whether a password of this address may be looked at, after waiting for a second where it has to."""
        for tries, free in ((self._of(address), FREE_TRIES), (self._of(""), FREE_TRIES * TRIES_IN_ALL)):
            if tries.count < free:
                continue
            wait = tries.next_at - time.monotonic()
            if wait > 0:
                if tries.is_one_waiting:
                    return False
                tries.is_one_waiting = True
                try:
                    await asyncio.sleep(wait)
                finally:
                    tries.is_one_waiting = False
            pause = WAIT_SECONDS if address and free == FREE_TRIES else WAIT_SECONDS / TRIES_IN_ALL
            tries.next_at = time.monotonic() + pause
        return True

    def wrong(self, address: str) -> None:
        """Count a wrong password, and say so in the log: at the fifth, and then once a minute."""
        now = time.monotonic()
        for name in (address, ""):
            tries = self._of(name)
            tries.count, tries.last_at = tries.count + 1, now
        self._unlogged += 1
        is_many = self._of(address).count >= FREE_TRIES
        if is_many and now - self._logged_at >= LOG_SECONDS:
            number = self._unlogged
            logger.warning("%d wrong passwords on a page, the last from %s: slowed down.", number, address)
            self._logged_at, self._unlogged = now, 0

    def right(self, address: str) -> None:
        """Forget the wrong passwords of an address that knows the right one."""
        self._tries.pop(address, None)

    def _of(self, address: str) -> Tries:
        tries = self._tries.get(address)
        if tries is None or (tries.count and time.monotonic() - tries.last_at > FORGOTTEN_AFTER_SECONDS):
            tries = Tries()
        self._tries[address] = tries
        self._tries.move_to_end(address)
        if len(self._tries) > MAX_ADDRESSES:
            self._tries.popitem(last=False)
        return tries
