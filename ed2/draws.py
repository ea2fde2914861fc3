"""Random numbers as a function of (seed, what for, epoch, index), never of history.

A draw does not depend on the number of threads, on what was drawn before, on a resume, or on how a batch was cut.
Philox is counter based: any key gives an independent stream at once.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from hashlib import blake2b

import numpy as np


def rng(seed: int, what: str, *key: int | str) -> np.random.Generator:
    """Return the generator of one draw.

    Args:
        seed: the run's seed.
        what: what the draw is for, such as "noise" or "crop".
        key: what tells the draws of that kind apart, usually epoch, image, repeat.
    """
    digest = blake2b(repr((seed, what, *key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
