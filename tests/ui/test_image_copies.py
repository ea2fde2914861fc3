"""Copies of images that are made when a browser asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ed2.ui import image_copies
from ed2.ui.image_copies import ImageCopies
from tests.tiny import make_images


@pytest.fixture
def copies() -> ImageCopies:
    return ImageCopies(32)


@pytest.fixture
def client(copies: ImageCopies) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=[copies.mount()])) as client:
        yield client


def test_a_copy_is_made_when_it_is_asked_for_in_the_size_that_was_offered(
    copies: ImageCopies, client: TestClient, tmp_path: Path
) -> None:
    image = make_images(tmp_path, [(96, 64)]) / "00.png"
    for side in (0, 48):
        address = copies.offer(image, side)
        name = address.rpartition("/")[2]
        assert not (copies.folder / name).exists()
        assert client.get(address).status_code == 200
        with Image.open(copies.folder / name) as copy:
            assert max(copy.size) == (side or 32)
    assert copies.offer(tmp_path / "gone.png") == ""


def test_what_was_not_offered_is_not_served_and_what_is_damaged_is_grey(
    copies: ImageCopies, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG")
    address = copies.offer(damaged)
    assert client.get(address).headers["content-type"] == "image/webp"
    for name in ("x.webp", "../00.png", "%2e%2e/00.png", str(damaged), ""):
        assert client.get(f"{copies.route}/{name}").status_code == 404, name
    monkeypatch.setattr(image_copies, "MAX_OFFERED", 1)
    other = tmp_path / "other.png"
    other.write_bytes(b"\x89PNG")
    forgotten = copies.offer(other, 16)
    copies.offer(other, 17)
    assert client.get(forgotten).status_code == 404
