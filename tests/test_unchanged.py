"""The guard over datasets itself."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.unchanged import watched


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "cat.txt").write_text("a dog"),
        lambda folder: (folder / "new.txt").write_text(""),
        lambda folder: (folder / "cat.txt").unlink(),
        lambda folder: (folder / "cat.txt").rename(folder / "dog.txt"),
        lambda folder: os.utime(folder / "cat.txt", ns=(1, 1)),
    ],
    ids=["rewritten", "added", "deleted", "renamed", "touched"],
)
def test_any_change_of_a_dataset_is_found(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    (tmp_path / "cat.txt").write_text("a cat")

    def scan(roots: Sequence[Path], harmful: bool) -> str:
        return str(harm(roots[0])) if harmful else "read"

    assert watched(scan)([tmp_path], False) == "read"
    with pytest.raises(AssertionError, match="a dataset was changed"):
        watched(scan)([tmp_path], True)
