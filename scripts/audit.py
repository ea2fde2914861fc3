#!/usr/bin/env python3
"""Compare the tested versions with the known vulnerabilities of packages, by pip-audit.

    python scripts/audit.py

Installs pip-audit into a folder of its own, which is removed afterwards. Where it or its data cannot be reached, it
says so and exits with 0. Exits with 1 if a version has a known vulnerability.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ed2.launcher.install import TORCH  # noqa: E402

SECONDS = 600


def pinned(folder: Path) -> Path:
    """A file that lists every tested version, PyTorch among them."""
    path = folder / "pinned.txt"
    path.write_text(f"{(ROOT / 'constraints.txt').read_text(encoding='utf-8')}torch=={TORCH}\n", encoding="utf-8")
    return path


def audit(folder: Path) -> tuple[str, int]:
    """What was found, as text, and the exit code."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    quiet = ["--quiet", "--retries", "1", "--timeout", "15", "--disable-pip-version-check"]
    installed = run([str(python), "-m", "pip", "install", *quiet, "pip-audit"])
    if installed.returncode:
        return "Not audited: pip-audit cannot be installed here.", 0
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "15"]
    found = run([str(python), "-m", "pip_audit", "--requirement", str(pinned(folder)), *options])
    return told(found.stdout)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "")


def told(answer: str) -> tuple[str, int]:
    """What pip-audit's answer in JSON says, as text, and the exit code."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError):
        return "Not audited: the data on vulnerabilities cannot be reached.", 0
    known = [package for package in packages if "vulns" in package]
    if not known:
        return "Not audited: the index of packages that is reached here has no data on vulnerabilities.", 0
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in known
        for vulnerability in package["vulns"]
    ]
    skipped = f", {len(packages) - len(known)} without data" if len(known) < len(packages) else ""
    lines.append(f"Audited {len(known)} packages{skipped}: {len(lines) or 'no'} known vulnerabilities.")
    return "\n".join(lines), int(len(lines) > 1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        text, code = audit(Path(own))
    print(text)
    sys.exit(code)
