"""Changes of small files: whole or not at all, and undone as one."""

import json
from pathlib import Path

import pytest

from ed2.app.images import edits as module
from ed2.app.images.edits import Edits, FileChange
from ed2.errors import Ed2Error


def change(path: Path, new: bytes | None) -> FileChange:
    return FileChange(path, path.read_bytes() if path.exists() else None, new)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_changes_are_undone_one_by_one_byte_for_byte(tmp_path: Path) -> None:
    edits, cat, dog = Edits(tmp_path / "kept"), tmp_path / "cat.txt", tmp_path / "dog.txt"
    cat.write_bytes(b"caf\xe9\r\n")
    two = edits.write("two", [change(cat, b"a cat\n"), change(dog, b"a dog\n")])
    edits.write("one", [change(cat, None)])
    assert contents(tmp_path) == {"dog.txt": b"a dog\n"}
    assert edits.undo([tmp_path]) == "one"
    assert contents(tmp_path) == {"dog.txt": b"a dog\n", "cat.txt": b"a cat\n"}
    assert edits.last([tmp_path]) == two
    assert edits.undo([tmp_path]) == "two"
    assert contents(tmp_path) == {"cat.txt": b"caf\xe9\r\n"}
    assert edits.undo([tmp_path]) == ""


def test_a_change_that_fails_partway_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, names = Edits(tmp_path / "kept"), ["a", "b", "c"]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    real, done = module.rename_over, []

    def failing(temporary: Path, target: Path) -> None:
        done.append(target)
        if len(done) == 3:
            raise OSError(28, "No space left on device")
        real(temporary, target)

    monkeypatch.setattr(module, "rename_over", failing)
    with pytest.raises(Ed2Error, match="Nothing was changed: No space left"):
        edits.write("it", [change(tmp_path / name, b"new") for name in names])
    assert contents(tmp_path) == dict.fromkeys(names, b"old")
    assert not any((tmp_path / "kept").iterdir())


def test_a_change_that_a_kill_cut_short_is_taken_back(tmp_path: Path) -> None:
    edits, paths = Edits(tmp_path / "kept"), [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"old")
    edits.write("it", [change(path, b"new") for path in paths])
    record = next((tmp_path / "kept").iterdir())
    record.rename(record.with_suffix(".pending"))  # as it is until every file is written
    paths[1].write_bytes(b"old")
    assert edits.undo([tmp_path]) == ""
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}


def test_what_another_program_has_changed_is_left_alone(tmp_path: Path) -> None:
    edits, path = Edits(tmp_path / "kept"), tmp_path / "a.txt"
    path.write_bytes(b"old")
    planned = change(path, b"new")
    path.write_bytes(b"theirs")
    with pytest.raises(Ed2Error, match=r"another program has changed a\.txt"):
        edits.write("it", [planned])
    edits.write("it", [change(path, b"new")])
    path.write_bytes(b"theirs again")
    with pytest.raises(Ed2Error, match="not undone"):
        edits.undo([tmp_path])
    assert path.read_bytes() == b"theirs again"


def test_only_allowed_files_of_this_dataset_are_touched(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    edits = Edits(tmp_path / "kept", lambda path: path.is_relative_to(one))
    with pytest.raises(Ed2Error, match="outside"):
        edits.write("it", [change(other / "a", b"x")])
    Edits(tmp_path / "kept").write("it", [change(other / "a", b"x")])
    assert edits.undo([tmp_path]) == "" and (other / "a").exists()
    edits.write("mine", [change(one / "a", b"x")])
    assert edits.undo([other]) == ""
    assert edits.undo([one]) == "mine"


def test_a_record_of_an_earlier_version_and_a_damaged_one(tmp_path: Path) -> None:
    kept, path = tmp_path / "kept", tmp_path / "cat.txt"
    kept.mkdir()
    path.write_bytes(b"new")
    (kept / "1.json").write_text(json.dumps({"path": str(path), "old": "b2xk"}))
    (kept / "2.json").write_text("{")
    assert Edits(kept).undo([tmp_path]) == "the caption in cat.txt"
    assert path.read_bytes() == b"old"
    (tmp_path / "file").touch()
    with pytest.raises(Ed2Error, match="cannot be kept"):
        Edits(tmp_path / "file").write("it", [change(path, b"new")])
    assert path.read_bytes() == b"old"
