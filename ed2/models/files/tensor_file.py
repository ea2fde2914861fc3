"""Writing a safetensors file tensor by tensor, and reading it back.

The library's own `save_file` wants all tensors in the memory of the computer at once, and hands out no hash. Here one
tensor at a time is brought there, wherever it lies, and what is written is hashed on the way. The library's reading for
PyTorch loses 56 bytes with each tensor (safetensors 0.8.0), which a long run that saves often would feel.

The format is eight bytes of length, a JSON header, and the tensors' bytes in the order of the header.
Source: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ed2.disk import HashingFile
from ed2.models.files.header import HeaderError, read_header

_DTYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""In the library's order of tensors in a file, so that the bytes are those that it would write."""
_ALIGNMENT = 8


def write_tensors(
    file: HashingFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, dtype: torch.dtype | None = None
) -> None:
    """Write `tensors` as a safetensors file; those of floating numbers in `dtype`, if it is given.

    Raises:
        OSError: it cannot be written.
        ValueError: a tensor is of a kind that the format does not have.
    """
    kinds = {name: stored_dtype(tensor, dtype) for name, tensor in tensors.items()}
    if unknown := [name for name, kind in kinds.items() if kind not in _DTYPES]:
        raise ValueError(f"{unknown[0]} is of a type that such a file does not hold ({kinds[unknown[0]]})")
    ranks = list(_DTYPES)
    order = sorted(tensors, key=lambda name: (ranks.index(kinds[name]), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        end = place + tensors[name].numel() * kinds[name].itemsize
        header[name] = {"dtype": _DTYPES[kinds[name]], "shape": list(tensors[name].shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(_bytes_of(tensors[name], kinds[name]))


def mapped_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `write_tensors` wrote, by name; their bytes are read from it when they are used.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or damaged.
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


def stored_dtype(tensor: Tensor, wanted: torch.dtype | None) -> torch.dtype:
    """The type that a tensor gets in a file whose floating numbers are to be `wanted`."""
    return wanted if wanted is not None and tensor.is_floating_point() else tensor.dtype


def bytes_of(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """How many bytes these tensors take in a file."""
    return sum(tensor.numel() * stored_dtype(tensor, dtype).itemsize for tensor in tensors.values())


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    host = tensor.detach().to("cpu", dtype).contiguous().reshape(-1).view(torch.uint8)
    return host.numpy().data
