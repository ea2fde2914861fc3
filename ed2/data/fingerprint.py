"""Fingerprints, by which a resumed run notices other images, captions or ways to train them."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from ed2.data.example import Example
from ed2.small_files import READ_FLAGS

EDGE_BYTES = 4096
"""How much of the beginning and of the end of a file is compared."""
_AT_ONCE = 64
"""Files that a thread takes at once: handing out each alone would take longer than reading it."""


def fingerprint_line(example: Example, content: str, *more: str) -> bytes:
    """Return what a fingerprint covers of one image; not its time, which differs in a copy.

    Args:
        example: the image.
        content: stands for what is in its file.
        more: added at the end.
    """
    values: list[object] = [example.key, content, example.caption, example.bucket]
    values += [example.multiply, example.batch_id, example.loss_scale, example.flip_p, example.cond_dropout]
    shuffle = example.shuffle
    values += [shuffle and (shuffle.tags, shuffle.max_length), *more]
    return (json.dumps(values) + "\n").encode()


def quick_fingerprint(examples: Sequence[Example], threads: int) -> str:
    """Return a hash over all images that reads only the edges of their files.

    It is the same for copies at other times and places. A change that leaves a file's length, beginning and end as they
    are does not show; a hash of every byte would need a full read of all images.
    """
    digest = hashlib.sha256()
    paths = list(dict.fromkeys(example.path for example in examples))
    some = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="check") as pool:
        edges = dict(zip(paths, chain(*pool.map(_edges, some)), strict=True))
    for example in examples:
        digest.update(fingerprint_line(example, edges[example.path]))
    return digest.hexdigest()


def _edges(paths: Iterable[Path]) -> list[str]:
    return list(map(_edges_of, paths))


def _edges_of(path: Path) -> str:
    """Return the length of a file and a hash of its first and last bytes; empty if it cannot be read any more."""
    try:
        handle = os.open(path, READ_FLAGS)
        try:
            size, head = os.fstat(handle).st_size, os.read(handle, EDGE_BYTES)
            os.lseek(handle, max(0, size - EDGE_BYTES), os.SEEK_SET)
            tail = os.read(handle, EDGE_BYTES)
        finally:
            os.close(handle)
    except OSError:
        return ""
    return f"{size} {hashlib.blake2b(head + tail, digest_size=16).hexdigest()}"
