"""Whether there is anything left to read: a drive that is pulled, or a folder that is moved, takes all at once."""

import os
from collections.abc import Sequence

from ed2.data.example import Example
from ed2.data.images import check_image
from ed2.errors import ImagesLostError, Problem

MOST_TRIED = 200
"""Images, spread over all, of which one must be readable: more would take long where each is there and damaged."""


def require_readable(examples: Sequence[Example]) -> None:
    """See that at least one of these images, or of many of them where they are very many, can be read.

    Raises:
        ImagesLostError: names the folders, and what is wrong with the first image.
    """
    shown = [example for example in examples if example.multiply > 0]
    first: Problem | None = None
    for example in shown[:: max(1, len(shown) // MOST_TRIED)]:
        fault = check_image(example.path).problem
        if fault is None:
            return
        first = first or Problem(example.name, fault.what)
    raise ImagesLostError(
        f"Not one of the images in {' and '.join(_folders(shown))} can be read any more ({len(shown):,} in all)",
        f"{first} Is the drive still there, or was the folder moved?",
        "Put the images back and continue the run: none of its training is lost.",
    )


def _folders(examples: Sequence[Example]) -> list[str]:
    """Return the folder that the images of each data root have in common."""
    parents: dict[int, list[str]] = {}
    for example in examples:
        parents.setdefault(example.root, []).append(str(example.path.parent))
    return [_common(found) for _, found in sorted(parents.items())]


def _common(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # a manifest may name images on several drives
        return folders[0]
