"""What a browser of folders shows of a computer that others use, too."""

import os
from pathlib import Path

import pytest

from ed2.app.page.folders import Contents, contents, is_folder, models
from tests.hostile.test_changing_images import without_rights


def test_inaccessible_folders_hide_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lost+found" / "in").mkdir(parents=True)
    (tmp_path / "cat.safetensors").touch()
    os.mkdir(os.fsencode(tmp_path) + b"/na\xffme")  # noqa: PTH102 -- bytes
    (tmp_path / "lost+found").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above are closed to others
    with without_rights():
        assert models(Path()) == [Path("cat.safetensors")]
        assert contents(Path()) == Contents(("lost+found",), 0)
        assert not is_folder(Path("lost+found/in"))
