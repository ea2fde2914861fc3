"""What others may have written is understood or refused, in bounds, and never waited for."""

import os
from pathlib import Path

import pytest

from ed2 import small_files
from ed2.small_files import MAX_DEPTH, lines_of, objects_in, parse_json, read_json, read_object

REFUSED = [
    "[" * 200_000,
    '{"a":' * 200_000,
    "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH + "]",
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "Infinity",
    "[-Infinity]",
    '{"step": NaN}',
    "1e999",
    "9" * 400,
    "",
    "\0",
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: f"{text[:8]!r} of {len(text)}")
def test_invalid_json_and_unusable_numbers_are_value_errors(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError):
        parse_json(text)
    with pytest.raises(ValueError):
        read_json(tmp_path / "file")
    assert list(objects_in([b'{"a": 1}', text.encode(), b"[]", b"\xff", b'{"a": 2}'])) == [{"a": 1}, {"a": 2}]


def test_usual_json_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    text = '{"a": [1, 2.5, -1e-300, null, true, "\\u00e4", 1000000000000000000, {"b": {}}]}'
    assert parse_json(text) == parse_json(text.encode()) == {"a": [1, 2.5, -1e-300, None, True, "ä", 10**18, {"b": {}}]}
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    (tmp_path / "list").write_text("[]")
    with pytest.raises(ValueError):
        read_object(tmp_path / "list")


def test_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is not a file"):
        list(lines_of(tmp_path))
    with pytest.raises(FileNotFoundError):
        list(lines_of(tmp_path / "none"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="it is not a file"):
            list(lines_of(tmp_path / "pipe"))


def test_lines_are_read_one_by_one_and_an_endless_one_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_files, "MAX_LINE_BYTES", 8)
    (tmp_path / "file").write_bytes(b"a\n\nseven..\n" + b"x" * 30 + b"\n12345678\nb\n" + b"y" * 16)
    assert list(lines_of(tmp_path / "file")) == [b"a", b"", b"seven..", b"b"]
    (tmp_path / "file").write_bytes(b"a\nno end")
    assert list(lines_of(tmp_path / "file")) == [b"a", b"no end"]
