"""Writing a single file: under another name first, read again and looked at before it replaces anything."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ed2.disk import HashingFile, plain_reason, replace, temporary_name, to_disk
from ed2.errors import CheckpointError
from ed2.models.files.tensor_file import mapped_tensors, stored_dtype, write_tensors

Tensors = Mapping[str, Tensor]
_MAY_BE_INFINITE = "attn_mask"
"""Ends the names of what holds minus infinity by design."""


def write_single_file(
    path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Write a single file whole or not at all; a file of that name is replaced once the new one was read again.

    Args:
        path: Ends in `.safetensors`, or in `.ckpt` for PyTorch's own format.
        tensors: By their names in the file.
        metadata: Goes into the head of a .safetensors, and beside `state_dict` in a .ckpt.
        dtype: For the tensors of floating numbers; None leaves them as they are.

    Raises:
        CheckpointError: The suffix is another, the file cannot be written, or what was written is not what was given.
    """
    if path.suffix.lower() not in _FORMATS:
        raise CheckpointError(f"Cannot write {path.name}", "its format is unknown.", f"Use {' or '.join(_FORMATS)}.")
    write, read = _FORMATS[path.suffix.lower()]
    temporary = temporary_name(path)
    try:
        write(tensors, temporary, dict(metadata or {}), dtype)
        to_disk(temporary)
        fault = _fault(read(temporary), tensors, dtype)
        if fault is None:
            replace(temporary, path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        why = plain_reason(error)
        raise CheckpointError(f"Cannot write {path}", f"{why}.", "What was there before is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if fault:
        raise CheckpointError(f"{path.name} was not written", fault, "What was there before is unchanged.")


def _fault(found: Iterator[tuple[str, Tensor]], given: Tensors, dtype: torch.dtype | None) -> str | None:
    """What a written file has otherwise than it was given; None where it is the same and all numbers are finite."""
    missing = set(given)
    for name, tensor in found:
        missing.discard(name)
        wanted = given.get(name)
        if wanted is None or (tensor.shape, tensor.dtype) != (wanted.shape, stored_dtype(wanted, dtype)):
            return f"{name} came back otherwise than it was written."
        if not _is_finite(tensor) and not name.endswith(_MAY_BE_INFINITE):
            kind = str(tensor.dtype).removeprefix("torch.")
            too_large = f"{name} holds numbers too large for {kind}: use save_full_precision."
            return too_large if _is_finite(wanted) else f"{name} holds numbers that are not finite."
    return f"{min(missing)} did not come back." if missing else None


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _write_safetensors(tensors: Tensors, path: Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    with path.open("wb") as file:
        write_tensors(HashingFile(file), tensors, metadata, dtype=dtype)


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    yield from mapped_tensors(path).items()


def _write_ckpt(tensors: Tensors, path: Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    ready = _ready_to_pickle(tensors, dtype)
    with path.open("wb") as file:
        torch.save({"state_dict": ready} | ({"metadata": metadata} if metadata else {}), file)


def _ready_to_pickle(tensors: Tensors, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return `tensors` on the CPU, in the type of the file, each contiguous and alone in its memory."""
    ready: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, given in tensors.items():
        tensor = given.detach().to("cpu", stored_dtype(given, dtype)).contiguous()
        storage = tensor.untyped_storage()
        # torch.save writes all of the memory that a view looks at.
        is_view = storage.nbytes() != tensor.nbytes or storage.data_ptr() in used
        used.add(storage.data_ptr())
        ready[name] = tensor.clone() if is_view else tensor
    return ready


def _read_ckpt(path: Path) -> Iterator[tuple[str, Tensor]]:
    yield from torch.load(path, weights_only=True, mmap=True, map_location="cpu")["state_dict"].items()


_Write = Callable[[Tensors, Path, dict[str, str], torch.dtype | None], None]
_Read = Callable[[Path], Iterator[tuple[str, Tensor]]]
_FORMATS: Mapping[str, tuple[_Write, _Read]] = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".ckpt": (_write_ckpt, _read_ckpt),
}
