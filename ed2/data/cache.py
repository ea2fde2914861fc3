"""Tensors that take long to compute, by key, in files that several runs share.

A file (a shard) holds rows of tensors of the same shapes: for each its key, its tensors, and a hash of both, so that
whoever reads a row notices damage. Shards are written beside and renamed, and only added or removed as a whole.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ed2.data.variants import KEY_BYTES
from ed2.disk import sweep_half_files, write_whole
from ed2.disk_errors import plain_reason
from ed2.small_files import open_file, parse_json
from ed2.text import first_of

Row = Mapping[str, Tensor]
ByteRows = NDArray[np.uint8]
"""Keys or hashes, (N, 16)."""

SHARD_BYTES = 32 << 20
"""A shard is written when this much is waiting, so a killed pass loses no more."""
SHARD_SECONDS = 30.0
"""Or when the first row has been waiting this long."""
MAX_HEADER_BYTES = 1 << 20
KEYS, HASHES = "keys", "hashes"
SUFFIX = ".safetensors"
ABOUT = "about.json"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}

logger = logging.getLogger(__name__)


class DamagedError(Exception):
    """A shard, or a row in it, is not what was written."""


@dataclass(frozen=True, slots=True)
class _Column:
    """Where the rows of one tensor are in a shard; `shape` is that of a row."""

    start: int
    row_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    path: Path
    keys: ByteRows
    hashes: ByteRows
    columns: Mapping[str, _Column]

    def read(self, row: int) -> dict[str, Tensor]:
        """Return the tensors of a row. Raises DamagedError, OSError."""
        found, parts = {}, []
        with open_file(self.path) as file:
            for name, column in self.columns.items():
                content = bytearray(column.row_bytes)
                file.seek(column.start + row * column.row_bytes)
                if file.readinto(content) != column.row_bytes:  # type: ignore[attr-defined]
                    raise DamagedError("it is cut short")
                parts.append(content)
                found[name] = torch.frombuffer(content, dtype=column.dtype).reshape(column.shape)
        if _hash_of(self.keys[row].tobytes(), parts) != self.hashes[row].tobytes():
            raise DamagedError("its hash does not match")
        return found


class _Index:
    """Finds keys among those of all shards by their first 8 bytes; the hash of a row covers all of its key."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self.shards = tuple(shards)
        counts = [len(shard.keys) for shard in shards]
        starts, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for shard in shards:
            starts.append(_starts(shard.keys))
            rows.append(np.arange(len(shard.keys)))
        all_starts = np.concatenate(starts)
        order = np.argsort(all_starts, kind="stable")
        self._starts = all_starts[order]
        self._shard = np.repeat(np.arange(len(counts)), counts)[order]
        self._row = np.concatenate(rows)[order]

    def find(self, key: bytes) -> tuple[_Shard, int] | None:
        """Return the shard and row of a key."""
        [start] = _starts(_as_array([key]))
        place = int(np.searchsorted(self._starts, start))
        if place == len(self._starts) or self._starts[place] != start:
            return None
        return self.shards[int(self._shard[place])], int(self._row[place])

    def shards_of(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the number of the shard that holds each key, -1 for none: (len(keys),)."""
        if not len(self._starts) or not keys:
            return np.full(len(keys), -1)
        wanted = _starts(_as_array(keys))
        places = np.minimum(np.searchsorted(self._starts, wanted), len(self._starts) - 1)
        return np.where(self._starts[places] == wanted, self._shard[places], -1)


@dataclass
class TensorCache:
    """The rows of one folder. Its methods may be called from several threads.

    Attributes:
        folder: of the shards; see `cache_folder`.
        about: what the rows depend on besides their keys; written beside them.
        report: called with a sentence if shards are damaged or were removed, from the thread that notices it.
    """

    folder: Path
    about: Mapping[str, object]
    report: Callable[[str], object] = logger.warning
    _index: _Index = field(default_factory=lambda: _Index([]), repr=False)
    _waiting: dict[bytes, Row] = field(default_factory=dict, repr=False)
    _waiting_bytes: int = 0
    _waiting_since: float = 0.0
    _lost: set[bytes] = field(default_factory=set, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder again: other processes may have added shards."""
        sweep_half_files(self.folder)
        shards, damaged = [], []
        for path in sorted(self.folder.glob(f"[!.]*{SUFFIX}")):
            try:
                shards.append(_open_shard(path))
            except DamagedError as error:
                damaged.append(f"{path.name} ({error})")
                _remove(path)
            except OSError as error:
                logger.info("The shard %s cannot be read: %s.", path, plain_reason(error))
        self._index = _Index(shards)
        if damaged:
            self._report_damage(damaged)

    def missing(self, keys: Sequence[bytes]) -> list[bool]:
        """Tell of each key whether it has no row."""
        with self._lock:
            is_missing: list[bool] = (self._index.shards_of(keys) < 0).tolist()
            return [one and key not in self._waiting for one, key in zip(is_missing, keys, strict=True)]

    def touch(self, keys: Sequence[bytes]) -> None:
        """Mark the shards with these keys as used now: the age of a shard is the time since its last use."""
        for number in set(self._index.shards_of(keys).tolist()) - {-1}:
            with suppress(OSError):
                os.utime(self._index.shards[number].path)

    def read(self, key: bytes) -> Row | None:
        """Return the row of a key; None if there is none, or none that can be read any more."""
        while True:
            with self._lock:
                if key in self._waiting:
                    return self._waiting[key]
                found = self._index.find(key)
            if found is None:
                return None
            shard, row = found
            try:
                return shard.read(row)
            except (DamagedError, OSError) as error:
                self._drop(shard, error)

    def add(self, key: bytes, row: Row) -> None:
        """Add a row, on the CPU; it is written with others once enough are waiting. Raises OSError."""
        with self._lock:
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting[key] = row
            self._waiting_bytes += sum(tensor.nbytes for tensor in row.values())
            if self._waiting_bytes >= SHARD_BYTES or time.monotonic() - self._waiting_since >= SHARD_SECONDS:
                self.flush()

    def is_lost(self, key: bytes) -> bool:
        """Whether the row of a key was lost since the cache was opened, and not added again."""
        return key in self._lost

    def mend(self, key: bytes, row: Row) -> None:
        """Add a lost row again; if it cannot be written, that is only a message in the log."""
        with self._lock:
            self._lost.discard(key)
            try:
                self.add(key, row)
            except OSError as error:
                self._give_up(error)

    def flush(self) -> None:
        """Write all rows that are waiting. Raises OSError."""
        with self._lock:
            groups: dict[tuple[object, ...], dict[bytes, Row]] = {}
            for key, row in self._waiting.items():
                shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in sorted(row.items()))
                groups.setdefault(shapes, {})[key] = row
            if not groups:
                return
            _write_about(self.folder, self.about)
            shards = [_write_shard(self.folder, rows) for rows in groups.values()]
            self._waiting, self._waiting_bytes = {}, 0
            self._index = _Index([*self._index.shards, *shards])

    def close(self) -> None:
        """Write what is waiting, if that is possible; otherwise it is only a message in the log."""
        try:
            self.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("The cache %s cannot be written: %s.", self.folder, plain_reason(error))
        self._waiting, self._waiting_bytes = {}, 0

    def _drop(self, shard: _Shard, error: DamagedError | OSError) -> None:
        """Forget a shard, so that its rows are made again; it is removed only if it is damaged."""
        with self._lock:
            if shard not in self._index.shards:
                return  # another thread was faster
            self._index = _Index([other for other in self._index.shards if other is not shard])
            self._lost.update(key.tobytes() for key in shard.keys)
        reason = str(error)
        if isinstance(error, DamagedError):
            _remove(shard.path)
        else:  # removed by its owner, or by another run that found it damaged, or its drive does not answer now
            reason = plain_reason(error)
        self._report_damage([f"{shard.path.name} ({reason})"])

    def _report_damage(self, shards: Sequence[str]) -> None:
        self.report(
            f"Part of the cache {self.folder.name} is damaged or gone and is made again: {first_of(shards, 3)}."
        )


def cache_folder(cache_dir: Path, what: str, about: Mapping[str, object]) -> Path:
    """Return the folder for rows that depend on `about`, besides their keys, in JSON values."""
    name = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=10).hexdigest()
    return cache_dir / f"{what}-{name}"


def _write_about(folder: Path, about: Mapping[str, object]) -> None:
    """Make the folder of a cache, and write into it what its rows depend on, for people. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ABOUT).exists():
        write_whole(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())


def _write_shard(folder: Path, rows: Mapping[bytes, Row]) -> _Shard:
    keys = _as_array(list(rows))
    names = sorted(next(iter(rows.values())))
    columns, flat = {}, []
    for name in names:
        columns[name] = torch.stack([row[name] for row in rows.values()]).contiguous()
        flat.append(columns[name].reshape(len(rows), -1).view(torch.uint8).numpy())
    hashes = _as_array([_hash_of(key, [column[row].data for column in flat]) for row, key in enumerate(rows)])
    path = folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:20]}{SUFFIX}"
    tensors = {**columns, KEYS: torch.from_numpy(keys), HASHES: torch.from_numpy(hashes)}
    write_whole(path, save(tensors))
    return _open_shard(path)


def _open_shard(path: Path) -> _Shard:
    """Read the keys and the places of a shard's rows. Raises DamagedError, OSError."""
    with open_file(path) as file:
        count, columns = _columns_in(file)
        ends = [column.start + count * column.row_bytes for column in columns.values()]
        if max(ends) != os.fstat(file.fileno()).st_size:
            raise DamagedError("it is cut short")
        keys, hashes = (_read_bytes(file, columns.pop(name), count) for name in (KEYS, HASHES))
    return _Shard(path, keys, hashes, dict(sorted(columns.items())))


def _columns_in(file: BinaryIO) -> tuple[int, dict[str, _Column]]:
    """Return how many rows a shard has, and its columns by name, from its header. Raises DamagedError, OSError."""
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size <= MAX_HEADER_BYTES:
        raise DamagedError("its header is damaged")
    try:
        header = parse_json(file.read(size))
        header.pop("__metadata__", None)
        columns = {name: _column(entry, 8 + size) for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedError("its header is damaged") from error
    num_rows = {int(entry["shape"][0]) for entry in header.values()}
    if len(num_rows) != 1 or not columns.keys() > {KEYS, HASHES}:
        raise DamagedError("its header is damaged")
    return num_rows.pop(), columns


def _column(entry: Mapping[str, Any], start: int) -> _Column:
    """Return the place of a tensor by its entry in the header. Raises ValueError, TypeError, LookupError."""
    first, last = map(int, entry["data_offsets"])
    count, *shape = map(int, entry["shape"])
    dtype = DTYPES[entry["dtype"]]
    row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not (first >= 0 and count > 0 and row_bytes > 0 and last - first == count * row_bytes):
        raise ValueError("offsets")
    return _Column(start + first, row_bytes, dtype, tuple(shape))


def _read_bytes(file: BinaryIO, column: _Column, count: int) -> ByteRows:
    if column.row_bytes != KEY_BYTES:
        raise DamagedError("its header is damaged")
    file.seek(column.start)
    content = file.read(count * KEY_BYTES)
    if len(content) != count * KEY_BYTES:
        raise DamagedError("it is cut short")
    return np.frombuffer(content, dtype=np.uint8).reshape(count, KEY_BYTES)


def _hash_of(key: bytes, parts: Sequence[bytearray | memoryview]) -> bytes:
    digest = hashlib.sha256(key)
    for part in parts:
        digest.update(part)
    return digest.digest()[:KEY_BYTES]


def _as_array(keys: Sequence[bytes]) -> ByteRows:
    return np.frombuffer(bytearray().join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)


def _starts(keys: ByteRows) -> NDArray[np.uint64]:
    """The first 8 bytes of each key as a number."""
    starts: NDArray[np.uint64] = np.ascontiguousarray(keys[:, :8]).view("<u8")[:, 0]
    return starts


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
