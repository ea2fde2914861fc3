"""Our writer of safetensors files against the library's own."""

import gc
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.disk import HashingFile, sha256_of
from ed2.models.files.tensor_file import bytes_of, mapped_tensors, pieces_of


def test_the_bytes_equal_those_of_the_library_and_are_hashed(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8]
    tensors = {f"t{i}.größe": torch.randn(3, i + 1).mul(9).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"yes": torch.tensor([True, False]), "one": torch.tensor(5), "none": torch.empty(0, 2)}
    tensors["turned"] = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    with (tmp_path / "ours").open("wb") as file:
        hashing = HashingFile(file)
        for piece in pieces_of(tensors, {"format": "pt"}):
            hashing.write(piece)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (hashing.sha256, hashing.num_bytes) == (sha256_of(tmp_path / "ours"), (tmp_path / "ours").stat().st_size)
    assert all(torch.equal(tensors[name], read) for name, read in load_file(tmp_path / "ours").items())
    mapped = mapped_tensors(tmp_path / "ours")
    assert mapped.keys() == tensors.keys()
    for name, read in mapped.items():
        assert (read.dtype, read.shape) == (tensors[name].dtype, tensors[name].shape)
        assert torch.equal(read, tensors[name])


def test_floating_point_tensors_are_written_in_the_requested_type(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(5), "n": torch.arange(3)}
    with (tmp_path / "half").open("wb") as file:
        file.writelines(pieces_of(tensors, {}, dtype=torch.float16))
    read = load_file(tmp_path / "half")
    assert (read["a"].dtype, read["n"].dtype) == (torch.float16, torch.int64)
    assert bytes_of(tensors, torch.float16) == 5 * 2 + 3 * 8


def test_an_unsupported_type_is_named() -> None:
    with pytest.raises(ValueError, match="odd has a type"):
        next(pieces_of({"odd": torch.zeros(2, dtype=torch.complex64)}, {}))


def test_reading_back_leaks_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "many").open("wb") as file:
        file.writelines(pieces_of({f"t{i}": torch.zeros(300) for i in range(100)}, {}))
    kept = []
    tracemalloc.start()
    try:
        for _ in range(5):
            for _ in range(50):
                mapped_tensors(tmp_path / "many")
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A leak adds to every round; what else of this process takes memory now and then does not.
    assert min(later - earlier for earlier, later in pairwise(kept)) < 50 * 100 * 8


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.safetensors"):
        mapped_tensors(tmp_path / "page.safetensors")
