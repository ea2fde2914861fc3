"""Writing model files tensor by tensor, and reading them back.

The library's own `save_file` needs all tensors in main memory at once and returns no hash. Here one tensor at a time is
copied there, and its bytes are hashed on the way. The library's reader for PyTorch leaks 56 bytes per tensor
(safetensors 0.8.0), which adds up in a long run that saves often.

The format is eight bytes of length, a JSON header, and the tensors' bytes in the order of the header.
Source: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ed2.disk import HashingFile, replace, temporary_file, to_disk
from ed2.disk_errors import plain_reason
from ed2.errors import CheckpointError
from ed2.models.files.description import HASH_KEY, NO_HASH
from ed2.models.files.header import HeaderError, read_header
from ed2.tensor_bytes import bytes_in

Tensors = Mapping[str, Tensor]
Pair = tuple[str, Tensor | None, Tensor | None]
"""A name, the tensor that was read from a file, and the one that was to be written; None where there is none."""

_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order in which the library sorts tensors, so that the bytes are those that it would write."""
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Floating-point types that only store weights; fp16 holds every number of them."""
_ALIGNMENT = 8
_MAY_BE_INFINITE = "attn_mask"
"""Suffix of tensors that contain minus infinity by design."""


def pieces_of(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, dtype: torch.dtype | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file, tensor by tensor; floating-point ones in `dtype`, if given.

    Raises:
        ValueError: the format does not support the type of a tensor.
    """
    entries = _in_order(tensors, dtype)
    yield _header_of(entries, metadata)
    for entry in entries:
        yield _bytes_of(entry.tensor, entry.dtype)


@dataclass(frozen=True)
class _Entry:
    """A tensor of a file, and its type there."""

    name: str
    tensor: Tensor
    dtype: torch.dtype


def _in_order(tensors: Tensors, dtype: torch.dtype | None) -> list[_Entry]:
    """The tensors in the order in which the library would write them. Raises ValueError."""
    entries = [_Entry(name, tensor, _written_dtype(tensor, dtype)) for name, tensor in tensors.items()]
    for entry in entries:
        if entry.dtype not in _DTYPES:
            raise ValueError(f"{entry.name} has a type that safetensors does not support ({entry.dtype})")
    ranks = list(_DTYPES)
    return sorted(entries, key=lambda entry: (ranks.index(entry.dtype), entry.name))


def _header_of(entries: Iterable[_Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    place = 0
    for entry in entries:
        shape, end = list(entry.tensor.shape), place + entry.tensor.numel() * entry.dtype.itemsize
        header[entry.name] = {"dtype": _DTYPES[entry.dtype], "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Content:
    """What a single file holds. The bytes of its tensors are read when they are used."""

    tensors: Tensors
    metadata: Mapping[str, str]


def mapped_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; their bytes are read when they are used.

    Raises:
        OSError: it cannot be read.
        ValueError: it is another kind of file, or damaged.
    """
    try:
        header = read_header(path)
    except HeaderError as error:
        raise ValueError(f"{path.name}: {error}") from None
    kinds = {kind: dtype for dtype, kind in _DTYPES.items()}
    if unknown := set(header.dtypes.values()) - set(kinds):
        raise ValueError(f"{path.name} holds numbers of type {min(unknown)}")
    content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return {
        name: content[begin:end].view(kinds[header.dtypes[name]]).view(header.shapes[name])
        for name, (begin, end) in header.places.items()
    }


def _written_dtype(tensor: Tensor, wanted: torch.dtype | None) -> torch.dtype:
    """The type of a tensor in a file whose floating-point tensors are `wanted`; None leaves them as they are."""
    if wanted is None or not tensor.is_floating_point():
        return tensor.dtype
    return wanted


def bytes_of(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """The size of these tensors in a file, in bytes."""
    return sum(tensor.numel() * _written_dtype(tensor, dtype).itemsize for tensor in tensors.values())


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    return bytes_in(tensor.to("cpu", dtype)).numpy().data


def _replacing(temporary: Path, path: Path) -> Path:
    replace(temporary, path)
    return path


def write_single_file(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    place: Callable[[Path, Path], Path] = _replacing,
    find_fault: Callable[[Content], str | None] | None = None,
) -> Path:
    """Write a single file completely or not at all; gives where it is.

    An existing file is replaced once the new one was read back, unless `place` decides otherwise.

    Args:
        path: ends in `.safetensors`, or in `.ckpt` for PyTorch's own format.
        tensors: by their names in the file.
        metadata: goes into the header of a .safetensors, and next to `state_dict` in a .ckpt. Only a header has a hash.
        dtype: of the floating-point tensors; None leaves them as they are.
        place: renames the finished file, given where it is and `path`; gives the name that it chose.
        find_fault: compares what was read back with what was to be written, and says how it differs; None compares the
            tensors by their names.

    Raises:
        CheckpointError: the suffix is unknown, the file cannot be written, or it does not read back the same.
    """
    if path.suffix.lower() not in FORMATS:
        raise CheckpointError(f"Cannot write {path.name}", "its format is unknown.", "Use .safetensors or .ckpt.")
    write, read = FORMATS[path.suffix.lower()]
    try:
        with temporary_file(path) as temporary:
            write(tensors, temporary, dict(metadata or {}), dtype)
            to_disk(temporary)
            written = read(temporary)
            fault = find_fault(written) if find_fault else difference(by_name(written.tensors, tensors), dtype)
            if fault is None:
                return place(temporary, path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        why = plain_reason(error)
        raise CheckpointError(f"Cannot write {path}", f"{why}.", "The previous file is unchanged.") from error
    raise CheckpointError(f"{path.name} was not written", fault, "The previous file is unchanged.")


def by_name(found: Tensors, given: Tensors) -> Iterator[Pair]:
    """The tensors of a file beside those that were to be written, by their names there."""
    for name, tensor in found.items():
        yield name, tensor, given.get(name)
    for name in sorted(given.keys() - found.keys()):
        yield name, None, given[name]


def difference(pairs: Iterable[Pair], dtype: torch.dtype | None) -> str | None:
    """How a file with floating-point tensors in `dtype` differs from what was to be written.

    Returns:
        None if every byte is the same, and every number finite.
    """
    for name, found, wanted in pairs:
        if found is None:
            return f"{name} is missing from the file."
        differs = f"{name} did not read back as it was written."
        if wanted is None or (found.shape, found.dtype) != (wanted.shape, _written_dtype(wanted, dtype)):
            return differs
        if not _is_finite(found) and not name.endswith(_MAY_BE_INFINITE):
            if not _is_finite(wanted):
                return f"{name} has numbers that are not finite."
            kind = str(found.dtype).removeprefix("torch.")
            return f"{name} has numbers too large for {kind}: set export_dtype to bf16 or fp32."
        if not torch.equal(bytes_in(found), bytes_in(wanted.to("cpu", found.dtype))):
            return differs
    return None


def _is_finite(tensor: Tensor) -> bool:
    if tensor.dtype in EIGHT_BITS:
        tensor = tensor.half()  # PyTorch has no test for them
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return True
    return bool(torch.isfinite(tensor).all())  # the sum may have overflowed


def _write_safetensors(tensors: Tensors, path: Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    """Write a file; where its metadata has room for a hash, it gets that of the tensors' bytes."""
    entries = _in_order(tensors, dtype)
    has_hash = HASH_KEY in metadata
    if has_hash:
        metadata = {**metadata, HASH_KEY: NO_HASH}
    with path.open("wb") as file:
        file.write(_header_of(entries, metadata))
        content = HashingFile(file)
        for entry in entries:
            content.write(_bytes_of(entry.tensor, entry.dtype))
        if has_hash:
            file.seek(0)
            file.write(_header_of(entries, {**metadata, HASH_KEY: f"0x{content.sha256}"}))


def _read_safetensors(path: Path) -> Content:
    return Content(mapped_tensors(path), read_header(path).metadata)


def _write_ckpt(tensors: Tensors, path: Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    ready = _ready_to_pickle(tensors, dtype)
    content: dict[str, object] = {"state_dict": ready}
    metadata = {name: text for name, text in metadata.items() if name != HASH_KEY}  # which has no place here
    if metadata:
        content["metadata"] = metadata
    with path.open("wb") as file:
        torch.save(content, file)


def _ready_to_pickle(tensors: Tensors, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return `tensors` on the CPU, in the type of the file, each contiguous and with memory of its own."""
    ready: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, given in tensors.items():
        tensor = given.detach().to("cpu", _written_dtype(given, dtype)).contiguous()
        storage = tensor.untyped_storage()
        # torch.save writes all of the memory that a view is part of.
        is_view = storage.nbytes() != tensor.nbytes or storage.data_ptr() in used
        used.add(storage.data_ptr())
        ready[name] = tensor.clone() if is_view else tensor
    return ready


def _read_ckpt(path: Path) -> Content:
    content = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    return Content(content["state_dict"], content.get("metadata", {}))


_Write = Callable[[Tensors, Path, dict[str, str], torch.dtype | None], None]
_Read = Callable[[Path], Content]
FORMATS: Mapping[str, tuple[_Write, _Read]] = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".sft": (_write_safetensors, _read_safetensors),
    ".ckpt": (_write_ckpt, _read_ckpt),
}
