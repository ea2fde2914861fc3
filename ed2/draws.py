"""Random numbers as a function of (seed, purpose, epoch, index), independent of history.

A draw does not depend on the number of threads, on earlier draws, on a resume, or on how a batch was split.
Philox is counter-based: every key gives an independent stream.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from hashlib import blake2b

import numpy as np


def rng(seed: int, what: str, *key: int | str) -> np.random.Generator:
    """Return the generator for one draw.

    Args:
        seed: the run's seed.
        what: the purpose of the draw, such as "noise" or "crop".
        key: identifies the draw among those with this purpose, usually epoch, image, repeat.
    """
    return np.random.Generator(np.random.Philox(key=key_of(seed, what, *key)))


def key_of(seed: int, what: str, *key: int | str) -> int:
    """A number of 128 bits that identifies one draw, for a generator of another kind; arguments as for `rng`."""
    digest = blake2b(repr((seed, what, *key)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")
