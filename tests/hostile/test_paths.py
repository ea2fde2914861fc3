"""Folders and file names as they come: loops of links, names of every kind, and the names that we write ourselves."""

import os
from pathlib import Path

import pytest

from ed2.app.user_files import UserFiles
from ed2.errors import SettingsError
from ed2.settings.files import with_defaults
from tests.hostile.painting import noise
from tests.hostile.test_images import scanned

NAMES = [
    "CON.png", "nul.png", "aux.txt.png", "a:b.png", "trailing. .png", " leading.png", "-rf.png", "--help.png",
    "$(touch pwned).png", "`touch pwned`.png", "a;b.png", "a'b\"c.png", "new\nline.png", "tab\t.png", "esc\x1b[31m.png",
    "Kätzchen.png", "Ka\u0308tzchen.png", "猫.png", "🐈‍⬛.png", "\u202egnp.exe.png", "a\u200bb.png", "%s%n.png",
    "{0}.png", "x" * 251 + ".png", "..png", "a..png", "*.png", "?.png", "<b>.png", "&amp;.png", "~.png", "#.png",
]  # fmt: skip


def test_every_file_name_is_read_and_can_be_printed(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for name in NAMES:
        noise().save(root / name, format="PNG")
    with os.fdopen(os.open(os.fsencode(root) + b"/caf\xe9.png", os.O_CREAT | os.O_WRONLY), "wb") as file:
        noise().save(file, format="PNG")
    found, said = scanned(root)
    assert said == ""
    is_hidden = sum(name.startswith(".") for name in NAMES)
    assert len(found["used"]) == len(NAMES) - is_hidden + 1
    assert found["problems"] == {}
    for name, (_, caption) in found["used"].items():
        (name + caption).encode()
        assert "\x1b" not in caption
    assert not Path("pwned").exists()


def test_loops_of_links_and_links_to_anything_end(tmp_path: Path) -> None:
    root = tmp_path / "images"
    deep = root
    for number in range(60):
        deep = deep / f"folder{number}"
    deep.mkdir(parents=True)
    noise().save(deep / "cat.png")
    (deep / "up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    (root / "above").symlink_to(tmp_path)
    (root / "all").symlink_to(root)
    for name, target in {"nothing": "gone", "zero": "/dev/zero", "null": "/dev/null", "loop": "loop.png"}.items():
        (root / f"{name}.png").symlink_to(target)
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    found, said = scanned(root)
    assert said == ""
    assert [Path(name).name for name in found["used"]] == ["cat.png"]
    assert {Path(name).name for name in found["problems"]} == {
        "above",  # leads out of the dataset
        "nothing.png",
        "zero.png",
        "null.png",
        "loop.png",
        "pipe.png",
    }


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "CON", "nul.txt", "a/b", "a\\b", "a\0b", "x.", "", ".", "~", "a\nb", "x" * 300, "\ud800"],
)
def test_no_name_of_a_project_or_preset_leads_elsewhere(name: str, tmp_path: Path) -> None:
    if name != "~":  # a folder may be called so
        with pytest.raises(SettingsError):
            with_defaults({"project_name": name})
    with pytest.raises(SettingsError):
        UserFiles(tmp_path / "user").keep_preset(name, {})
    assert not list(tmp_path.iterdir())
