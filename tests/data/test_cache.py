"""Rows of tensors in shards: shared by programs, found again, and damage noticed by whoever reads it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ed2.data import cache
from ed2.data.cache import TensorCache
from ed2.data.example import Example
from ed2.data.variants import VisitKey, cache_key, chosen_crop, fixed_crops, latent_key

KEYS = [cache_key(number) for number in range(6)]
SHAPES = ((2, 4, 8, 8), (2, 4, 8, 12))


def row(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"a": torch.randn(SHAPES[number % 2], generator=generator), "b": torch.full((3,), number).bfloat16()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = TensorCache(tmp_path / "latents-0", {"vae": "x"})
    for number, key in enumerate(KEYS):
        store.add(key, row(number))
    store.flush()
    return tmp_path / "latents-0"


def same(found: object, number: int) -> bool:
    assert isinstance(found, dict)
    return all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in row(number).items()
    )


def test_rows_of_several_shapes_are_found_again_by_another_program(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) == len(SHAPES)
    assert (folder / "about.json").is_file() and not list(folder.glob(".tmp*"))
    store = TensorCache(folder, {})
    assert store.missing([*KEYS, cache_key("other")]) == [False] * len(KEYS) + [True]
    assert all(same(store.read(key), number) for number, key in enumerate(KEYS))
    assert store.read(cache_key("other")) is None


def test_two_programs_fill_a_folder_at_once(tmp_path: Path) -> None:
    first, second = TensorCache(tmp_path / "c", {}), TensorCache(tmp_path / "c", {})
    for number in (0, 2):
        first.add(KEYS[number], row(number))
        second.add(KEYS[number + 2], row(number + 2))
    second.flush()
    first.flush()
    store = TensorCache(tmp_path / "c", {})
    assert all(same(store.read(KEYS[number]), number) for number in (0, 2, 4))


def damage_row(path: Path, content: bytearray) -> None:
    content[len(content) // 3] ^= 1  # in the first or second row
    path.write_bytes(content)


def cut(path: Path, content: bytearray) -> None:
    path.write_bytes(content[:-1])


def no_header(path: Path, content: bytearray) -> None:
    path.write_bytes(b"\xff" * 100)


def broken_header(path: Path, content: bytearray) -> None:
    path.write_bytes(content.replace(b'"shape"', b'"shame"'))


def remove(path: Path, content: bytearray) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [damage_row, cut, no_header, broken_header])
def test_a_damaged_shard_is_reported_removed_and_made_again(folder: Path, spoil: object) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    spoil(shard, bytearray(shard.read_bytes()))  # type: ignore[operator]
    told: list[str] = []
    store = TensorCache(folder, {}, told.append)
    found = [store.read(key) for key in KEYS]
    assert len(told) == 1 and shard.name in told[0] and not shard.exists()
    assert None in found and all(same(one, number) for number, one in enumerate(found) if one)
    for number, is_missing in enumerate(store.missing(KEYS)):
        if is_missing:
            store.add(KEYS[number], row(number))
    store.close()
    again = TensorCache(folder, {}, told.append)
    assert all(same(again.read(key), number) for number, key in enumerate(KEYS)) and len(told) == 1


@pytest.mark.parametrize("spoil", [damage_row, remove])
def test_what_is_lost_while_it_is_in_use_is_added_again_and_nothing_else(folder: Path, spoil: object) -> None:
    told: list[str] = []
    store = TensorCache(folder, {}, told.append)
    for shard in folder.glob("*.safetensors"):
        spoil(shard, bytearray(shard.read_bytes()))  # type: ignore[operator]
    assert None in [store.read(key) for key in KEYS] and store.read(KEYS[0]) is None
    assert store.is_lost(KEYS[0]) and not store.is_lost(cache_key("other"))
    store.mend(KEYS[0], row(0))
    assert same(store.read(KEYS[0]), 0)
    store.close()
    assert same(TensorCache(folder, {}).read(KEYS[0]), 0)


def test_a_shard_that_cannot_be_opened_at_the_moment_is_not_removed(folder: Path, tmp_path: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    elsewhere = tmp_path / "drive" / shard.name
    elsewhere.parent.mkdir()
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    told: list[str] = []
    store = TensorCache(folder, {}, told.append)
    elsewhere.parent.rename(tmp_path / "disconnected")
    lost = [key for key in KEYS if store.read(key) is None]
    assert lost and all(map(store.is_lost, lost)) and len(told) == 1
    (tmp_path / "disconnected").rename(elsewhere.parent)
    assert not any(TensorCache(folder, {}, told.append).missing(KEYS))


def test_rows_are_written_when_enough_are_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 2 * sum(t.nbytes for t in row(0).values()))
    store = TensorCache(tmp_path / "c", {})
    store.add(KEYS[0], row(0))
    assert not list(tmp_path.glob("c/*.safetensors")) and same(store.read(KEYS[0]), 0)
    store.add(KEYS[2], row(2))
    assert len(list(tmp_path.glob("c/*.safetensors"))) == 1


def test_use_makes_a_shard_young(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    for shard in shards:
        os.utime(shard, (0, 0))
    TensorCache(folder, {}).touch([KEYS[0]])
    assert sorted(shard.stat().st_mtime > 0 for shard in shards) == [False, True]


def image(**changes: object) -> Example:
    values: dict[str, object] = {"size": (300, 200), "bucket": (80, 48), "flip_p": 0.5, "digest": "d"}
    values |= {"path": Path("a.png"), "root": 0, "name": "a.png", "caption": ""}
    return Example(**{**values, **changes})  # type: ignore[arg-type]


def test_crops_depend_on_the_content_alone_and_flips_are_a_share_of_them() -> None:
    crops = fixed_crops(image(), 4)
    assert crops[0].box == image().crop and [crop.is_mirrored for crop in crops] == [False, False, True, True]
    assert fixed_crops(image(path=Path("b.png"), name="b.png", root=3), 4) == crops
    assert [crop.box for crop in fixed_crops(image(), 8)[:4]] == [crop.box for crop in crops]
    assert fixed_crops(image(digest="e"), 4)[1:] != crops[1:]
    for count, flip_p, mirrored in ((1, 0.4, 0), (4, 0.1, 0), (4, 0.3, 1), (32, 1.0, 32)):
        assert sum(crop.is_mirrored for crop in fixed_crops(image(flip_p=flip_p), count)) == mirrored
    assert len({latent_key(image(), crop) for crop in crops}) == 4


def test_visits_are_drawn_among_the_crops_evenly() -> None:
    crops = fixed_crops(image(), 4)
    drawn = [chosen_crop(image(), VisitKey(epoch, "0/a.png", 0), seed=1, count=4) for epoch in range(400)]
    counts = np.bincount([crops.index(crop) for crop in drawn], minlength=4)
    assert counts.sum() == 400 and counts.min() > 70
