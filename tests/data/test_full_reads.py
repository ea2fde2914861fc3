"""What the first full read of each image shows in training, and what a run starts with in place of one."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.data.example import Example, Finding
from ed2.data.fingerprint import EDGE_BYTES, quick_fingerprint
from ed2.data.folder import ScanOptions, scan
from ed2.data.full_reads import FullReads
from ed2.data.images import ImageError, check_image, decode, decode_and_check
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.data.reading import ImageIndex

Painter = Callable[..., Path]
HEADERS = ScanOptions(resolution=64, headers_only=True)


@pytest.fixture
def folder(paint: Painter, tmp_path: Path) -> Path:
    """Images of several kinds; one has an alpha channel, one is plain, and two are alike."""
    for number, name in enumerate(["0.png", "1.jpg", "2.webp", "3.bmp", "4.gif"]):
        paint(name, size=(300 + number, 200))
    Image.new("RGB", (80, 80), "teal").save(tmp_path / "images/plain.jpg")
    Image.new("RGBA", (80, 80), (9, 9, 9, 99)).save(tmp_path / "images/alpha.png")
    (tmp_path / "images/copy.png").write_bytes((tmp_path / "images/0.png").read_bytes())
    return tmp_path / "images"


def test_a_decoded_image_tells_all_that_a_check_would_and_has_the_same_pixels(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        image, facts = decode_and_check(path, (40, 40), "white")
        assert replace(facts, digest=check_image(path).digest) == check_image(path)
        assert np.array_equal(np.asarray(image), np.asarray(decode(path, (40, 40))))


def test_after_an_epoch_a_scan_knows_what_a_full_one_would(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "user" / "index.json"
    (folder / "5.png").write_bytes((folder / "0.png").read_bytes()[:2000])
    Image.new("RGBA", (64, 64)).save(folder / "6.png")
    quick = scan([folder], replace(HEADERS, index_path=index))
    assert (len(quick.examples), quick.num_unread, quick.problems) == (10, 10, ())
    options = LoaderOptions(seed=1, batch_size=2, reads=FullReads(index))
    told: list[Finding] = []
    with Loader(quick.examples, options, on_problem=told.append) as loader:
        for _ in loader.groups(0):
            pass
    assert sorted(str(finding.path) for finding in told) == ["5.png", "6.png"]
    known, full = scan([folder], replace(HEADERS, index_path=index)), scan([folder], ScanOptions(resolution=64))
    assert known.num_unread == 0 and known == full
    assert [example.digest for example in known.examples] == [example.digest for example in full.examples]


def test_an_image_that_shows_nothing_is_refused_at_every_visit(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (64, 64)).save(path)
    example, reads = Example(path, 0, path.name, "", (64, 64), (64, 64)), FullReads()
    for _ in range(2):
        with pytest.raises(ImageError, match="transparent throughout"):
            reads.decode(example, (64, 64), "white")


def test_what_has_changed_since_the_start_and_what_another_size_contradicts_is_not_remembered(
    folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index.json"
    examples = scan([folder], HEADERS).examples
    reads = FullReads(index)
    reads.decode(replace(examples[0], size=(1, 1)), (40, 40), "white")
    reads.decode(examples[1], (40, 40), "white")
    reads.decode(examples[2], (40, 40), "white")
    os.utime(examples[1].path, ns=(1, 1))
    examples[2].path.unlink()
    reads.decode(examples[3], (40, 40), "white")
    reads.save()
    found = ImageIndex(index)
    known = [one.name for one in examples if one.path.exists() and found.find(one.path, one.path.stat())]
    assert known == [examples[3].name]


def test_an_index_that_cannot_be_written_ends_no_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "user").write_text("a file")
    reads = FullReads(tmp_path / "user" / "index.json")
    reads.decode(scan([folder], HEADERS).examples[0], (40, 40), "white")
    reads.save()
    assert (tmp_path / "user").read_text() == "a file"


def test_what_another_process_has_read_is_remembered_and_not_told_again(folder: Path, tmp_path: Path) -> None:
    example = scan([folder], HEADERS).examples[0]
    follower, first = FullReads(), FullReads(tmp_path / "index.json")
    follower.decode(example, (40, 40), "white")
    [(told, values)] = follower.take_news()
    first.add(told, values)
    first.add(told, ["nonsense"])
    first.save()
    assert ImageIndex(tmp_path / "index.json").find(example.path, example.path.stat()) == check_image(example.path)
    assert not follower.take_news() and not first.take_news()


def test_the_fingerprint_of_a_start_needs_no_full_read_and_shows_what_the_edges_of_files_do(
    folder: Path, tmp_path: Path
) -> None:
    large = folder / "3.bmp"
    examples = scan([folder], HEADERS).examples
    first = quick_fingerprint(examples, 2)
    known = scan([folder], replace(HEADERS, index_path=tmp_path / "index.json", headers_only=False)).examples
    assert quick_fingerprint(known, 1) == first
    content = large.read_bytes()
    for place, shows in ((60, True), (len(content) - 1, True), (2 * EDGE_BYTES, False)):
        changed = bytearray(content)
        changed[place] ^= 255
        large.write_bytes(changed)
        assert (quick_fingerprint(examples, 2) != first) == shows
    large.write_bytes(content + b"\0")
    assert quick_fingerprint(examples, 2) != first
    large.unlink()
    assert quick_fingerprint(examples, 2) != first
