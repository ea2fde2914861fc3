"""Images that look almost alike: the same one saved again, resized, or with small changes."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ed2.data.example import Example
from ed2.data.images import ImageError, decode
from ed2.disk import write_whole
from ed2.small_files import read_object

SIDE, WAVES = 32, 12
"""An image is reduced to 32 x 32 grey pixels; its 12 x 12 longest waves are compared."""
BITS = 192
"""Of a fingerprint: one for each wave but the constant one, 143, and zeros."""
DECODED_SIDE = 64
"""Pixels that are enough to compute a fingerprint from."""
MOST_DIFFERING = 12
"""Bits in which near duplicates may differ. Saving an image again as a small JPEG mostly changes 2 to 8, and different
images of one subject differ in 20 or more, as measured with the images of the demo."""
MIN_RANGE = 16
"""Levels between the darkest and the brightest pixel below which an image has no features to compare."""
BLOCK = 128
VERSION = 1
"""Of the fingerprints that are kept: raise it with any change of how they are computed."""
MAX_KEPT = 200_000
"""Fingerprints that are kept on the disk, the latest ones: 20 MB."""

Fingerprints = npt.NDArray[np.uint64]
"""(n, 3): 192 bits for each image."""


def fingerprint(path: Path) -> Fingerprints | None:
    """A perceptual hash, (3,): which of the longest waves of an image are stronger than their median.

    None if the image cannot be read, or is so even that there is nothing to compare.
    Source: N. Krawetz 2011, "Looks like it" (pHash).
    """
    try:
        image = decode(path, (DECODED_SIDE, DECODED_SIDE))
    except (ImageError, OSError):
        return None
    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    if np.ptp(pixels) < MIN_RANGE:
        return None
    cosines = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(WAVES)[:, None])
    waves = (cosines @ pixels @ cosines.T).ravel()[1:]
    bits = np.zeros(BITS, dtype=bool)
    bits[: waves.size] = waves > np.median(waves)
    return np.packbits(bits).view(np.uint64)


def alike(prints: Fingerprints) -> list[list[int]]:
    """Groups of the images whose fingerprints, (n, 3), differ in few bits: indices, each group sorted.

    An image belongs to a group if it is near to one of its members.
    """
    leader = list(range(len(prints)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for start in range(0, len(prints), BLOCK):
        block = prints[start : start + BLOCK]
        differing = np.bitwise_count(block[:, None, :] ^ prints[None, start:, :]).sum(axis=2, dtype=np.uint16)
        for first, second in np.argwhere(differing <= MOST_DIFFERING).tolist():
            leader[find(start + second)] = find(start + first)
    groups: dict[int, list[int]] = {}
    for number in range(len(prints)):
        groups.setdefault(find(number), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


class NearDuplicates:
    """Finds near duplicates; the fingerprint of an image is kept by its content, for the next start too."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def find(
        self,
        examples: Sequence[Example],
        kept_in: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[Example]]:
        """Groups of images that look almost alike; those with the same content are in them too.

        `progress` is called with the number of images done and the total; it may raise to stop. What was found until
        then is kept in the file `kept_in`, as far as that can be written.
        """
        self._known = {**_kept(kept_in), **self._known}
        before, prints, compared = len(self._known), [], []
        try:
            for number, example in enumerate(examples):
                if (found := self._fingerprint(example)) is not None:
                    prints.append(found)
                    compared.append(example)
                progress(number + 1, len(examples))
        finally:
            if len(self._known) > before:
                with contextlib.suppress(OSError):
                    _keep(self._known, kept_in)
        if not prints:
            return []
        groups = []
        for numbers in alike(np.stack(prints)):
            groups.append([compared[number] for number in numbers])
        return groups

    def _fingerprint(self, example: Example) -> Fingerprints | None:
        mark = example.digest or f"{example.path} {example.stamp}"
        if mark not in self._known:
            found = fingerprint(example.path)
            self._known[mark] = "" if found is None else found.tobytes().hex()
        kept = self._known[mark]
        return np.frombuffer(bytes.fromhex(kept), dtype=np.uint64) if kept else None


def _kept(file: Path) -> dict[str, str]:
    """The fingerprints of a file, in hexadecimal, by digest; none if it is missing, damaged or of another version."""
    try:
        content = read_object(file)
    except (OSError, ValueError):
        return {}
    prints = content.get("prints")
    if content.get("version") != VERSION or not isinstance(prints, dict):
        return {}
    return {digest: text for digest, text in prints.items() if text == "" or _is_fingerprint(text)}


def _is_fingerprint(text: object) -> bool:
    if not isinstance(text, str) or len(text) != BITS // 4:
        return False
    return set(text) <= set("0123456789abcdef")


def _keep(known: dict[str, str], file: Path) -> None:
    """Write those of images whose content is known. Raises OSError."""
    prints = {mark: text for mark, text in known.items() if " " not in mark}
    latest = dict(list(prints.items())[-MAX_KEPT:])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"version": VERSION, "prints": latest}).encode())
