"""A copy of the launcher whose `.venv` has a pip that installs nothing but notes what it was told."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ["__init__.py", "launch.py", "environment.py", "install.py", "doctor.py"]
TOOLS = ["bash", "cat", "dirname", "readlink", "sh"]
PIP = """
import json, os, pathlib, re, sys, time
here = pathlib.Path(__file__).parent.parent
with open(sys.prefix + "/pip.log", "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
time.sleep(float(os.environ.get("STUB_SECONDS", 0)))
if os.environ.get("STUB_FAILS", "nothing") in " ".join(sys.argv):
    sys.exit(1)
version = os.environ.get("STUB_TORCH", "2.13.0+cpu")
torch = f"__version__ = {version!r}\\nclass cuda:\\n    is_available = staticmethod(lambda: False)\\n"
(here / "torch.py").write_text(torch)
asked = [re.split(r"[^\\w-]", requirement)[0] for requirement in sys.argv[1:]]
found = {name: "1" for name in asked if name and "--no-deps" in sys.argv}
if "-r" in sys.argv:
    lists = [pathlib.Path(sys.argv[sys.argv.index(flag) + 1]).read_text() for flag in ("-r", "-c")]
    pinned = {name.lower(): version for name, version in re.findall(r"^([\\w.-]+)==(\\S+)$", lists[1], re.M)}
    found |= {name: pinned.get(name.lower(), "1") for name in re.findall(r"^([\\w-]+)", lists[0], re.M)}
for part, version in found.items():
    folder = here / f"{part.replace('-', '_')}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Name: {part}\\nVersion: {version}\\n")
"""
PROGRAM = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd()])); sys.exit(5)"


def hears_ctrl_c() -> None:
    """A shell that runs the tests in the background has had Ctrl-C ignored, and a program inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """A copy of the launcher, with a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my app & co (x86) ünï"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.root / "ed2" / "launcher").mkdir(parents=True)
        for name in ["__init__.py", "terminal.py", "text.py"]:
            shutil.copy(ROOT / "ed2" / name, self.root / "ed2")
        for name in ["launch.sh", "requirements.txt", "constraints.txt", "pyproject.toml"]:
            shutil.copy(ROOT / name, self.root)
        for name in LAUNCHER:
            shutil.copy(ROOT / "ed2" / "launcher" / name, self.root / "ed2" / "launcher")
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def make_venv(self) -> "Program":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.root / ".venv"], check=True)
        package = next((self.root / ".venv").glob("lib/python*/site-packages")) / "pip"
        package.mkdir()
        (package / "__main__.py").write_text(PIP)
        return self

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def stub(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        known = {"PATH": str(self.bin), "HOME": str(self.root), "CI": "true", "LC_ALL": "C.UTF-8", **environment}
        command = [str(self.root / "launch.sh"), *arguments]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            command, **output, cwd=cwd, env=known, encoding="utf-8", start_new_session=True, preexec_fn=hears_ctrl_c
        )  # so that a test can send Ctrl-C to all of it

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, cwd=cwd, **environment)
        output, errors = process.communicate(timeout=200)
        return process.returncode, output, errors

    def pip_calls(self) -> list[list[str]]:
        log = self.root / ".venv/pip.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
