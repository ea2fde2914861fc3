"""A folder is there whole or not at all, whichever call of the file system fails."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from ed2 import disk
from ed2.checkpoint.folder import find_damage, remove_leftovers, whole_folder
from ed2.disk import READ_BYTES, write_whole


def fill(target: Path) -> None:
    with whole_folder(target, {"step": 7}) as new:
        new.add("inner/a", b"a" * 1000)
        new.add("b", b"b")


def test_the_folder_appears_with_all_its_content(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "whole/b",
        "whole/inner/a",
        "whole/manifest.json",
    ]
    assert find_damage(tmp_path / "whole") is None
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["step"] == 7


@pytest.mark.parametrize("place", [0, READ_BYTES - 1, READ_BYTES, 5 * READ_BYTES // 2 - 1])
def test_a_byte_that_differs_from_what_was_written_is_found_without_hashes(tmp_path: Path, place: int) -> None:
    content = os.urandom(5 * READ_BYTES // 2)
    with whole_folder(tmp_path / "whole", {}) as new:
        new.add("large", content)
    assert find_damage(tmp_path / "whole", contents=new.contents) is None
    broken = bytearray(content)
    broken[place] ^= 1
    (tmp_path / "whole" / "large").write_bytes(broken)
    damage = find_damage(tmp_path / "whole", contents=new.contents)
    assert damage and "large has changed" in damage.text


def test_the_comparison_reports_progress_from_zero_to_all_bytes(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "whole", {}) as new:
        new.add("large", bytes(5 * READ_BYTES // 2))
        new.add("small", b"a" * 1000)
        new.add("none", b"")
    told: list[tuple[str, int, int]] = []
    assert find_damage(tmp_path / "whole", progress=lambda *now: told.append(now)) is None
    total = 5 * READ_BYTES // 2 + 1000
    done = [num_bytes for _, num_bytes, _ in told]
    assert (done[0], done[-1]) == (0, total)
    assert done == sorted(set(done)) and len(done) == 5
    assert {(name, of) for name, _, of in told} == {("whole", total)}


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    with pytest.raises(FileExistsError):
        fill(tmp_path / "whole")


@pytest.mark.parametrize("failing_call", range(1, 7))
def test_a_failed_write_at_any_point_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    calls = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(disk.os, "fsync", fsync)
    try:
        fill(tmp_path / "whole")
    except OSError:
        assert not (tmp_path / "whole").exists()
        assert not list(tmp_path.glob(".tmp-*"))
    else:
        assert calls < failing_call or failing_call == 6, "only what comes after the rename may fail"
        assert find_damage(tmp_path / "whole") is None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES])
def test_a_drive_that_cannot_sync_folders_can_be_saved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "not for folders")
        real(handle)

    def advise(*given: int) -> None:
        raise OSError(number, "no advice")

    monkeypatch.setattr(disk.os, "fsync", fsync)
    monkeypatch.setattr(disk.os, "posix_fadvise", advise, raising=False)
    fill(tmp_path / "whole")
    write_whole(tmp_path / "small", b"1")
    assert find_damage(tmp_path / "whole") is None


def test_leftovers_of_a_killed_program_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-old" / "inner").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rename_is_retried_while_a_scanner_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RENAME_WAIT_SECONDS", 0)
    tries: list[int] = []
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        tries.append(1)
        if len(tries) < 4:
            raise PermissionError(13, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    fill(tmp_path / "whole")
    assert (len(tries), (tmp_path / "whole" / "b").exists()) == (4, True)


def test_a_small_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    write_whole(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "new"
