"""launch.bat: what can be told from its text, and where wine and a compiler for Windows are installed, a real run."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launcher import ROOT

COMPILER = shutil.which("x86_64-w64-mingw32-gcc")
PYTHON = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words) {
    const char *code = getenv("STUB_CODE");
    if (count > 2 && strstr(words[2], "version_info")) return getenv("STUB_IS_OLD") != NULL;
    if (count > 1 && !strcmp(words[1], "-c")) return 0;
    for (int i = 1; i < count; i++) puts(words[i]);
    return code ? atoi(code) : 0;
}
"""


def test_launch_bat_is_plain_and_leaves_everything_to_launch_py() -> None:
    data = (ROOT / "launch.bat").read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == data.count(b"\r\n")
    text, script = data.decode(), (ROOT / "launch.sh").read_text()
    for shared in ("(3, 11) <= sys.version_info[:2] <= (3, 14)", "-I -X utf8", ".partial"):
        assert shared in text
        assert shared in script
    assert "if not defined CI pause" in text
    assert '"%HERE%ed2\\launcher\\launch.py" %*' in text


def start(folder: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of launch.bat in `folder` under wine, whose server would keep a pipe open."""
    known = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "WINEDEBUG": "-all",
        "WINEPREFIX": str(folder.parent / "prefix"),
        "CI": "true",
    }
    command = ["wine", "cmd", "/c", "launch.bat", *arguments]
    printed = folder.parent / "printed"
    with printed.open("wb") as file:
        code = subprocess.run(command, cwd=folder, env={**known, **environment}, stdout=file, check=False).returncode
    return code, printed.read_text(encoding="cp1252").splitlines()  # as C programs of Western Windows print


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (COMPILER and shutil.which("wine")), reason="needs wine and mingw-w64")
def test_launch_bat_finds_python_and_passes_everything_on(tmp_path: Path) -> None:
    folder, programs = tmp_path / "a & b! (x86) ünï", tmp_path / "bin"
    (folder / "ed2" / "launcher").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(ROOT / "launch.bat", folder)
    (folder / "ed2/launcher/launch.py").write_text("")
    (tmp_path / "python.c").write_text(PYTHON)
    subprocess.run([str(COMPILER), "-o", programs / "python.exe", tmp_path / "python.c"], check=True)
    path = "Z:" + str(programs).replace("/", "\\")
    launcher = "Z:" + str(folder).replace("/", "\\") + "\\ed2\\launcher\\launch.py"

    code, lines = start(folder, "train")
    assert code == 1
    assert "ERROR: Python 3.11 to 3.14 was not found." in lines
    assert start(folder, "train", WINEPATH=path, STUB_IS_OLD="1")[0] == 1
    code, lines = start(folder, "train", "my cfg.json", "a & b", "--x=1", WINEPATH=path, STUB_CODE="5")
    assert code == 5
    assert lines == ["-I", "-X", "utf8", launcher, "train", "my cfg.json", "a & b", "--x=1"]
    (folder / ".venv/Scripts").mkdir(parents=True)
    shutil.copy(programs / "python.exe", folder / ".venv/Scripts")
    assert start(folder, "check", STUB_CODE="3") == (3, ["-I", "-X", "utf8", launcher, "check"])
    (folder / ".venv/.partial").touch()
    assert start(folder, "check")[0] == 1
