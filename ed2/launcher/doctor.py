"""`doctor`: repairs the installation, says what this computer has, and tests what training needs.

Standard library only. What needs PyTorch is tested by `python -m ed2 doctor`, in a process of its own, since a broken
library may end it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

import ed2
from ed2.launcher.environment import ROOT, VENV, LaunchError, locked, program_environment, say
from ed2.launcher.install import (
    UNTESTED,
    Gpu,
    Torch,
    find_gpus,
    free_disk_gb,
    install,
    install_torch,
    installed_torch,
    is_installed,
    require_space,
    torch_backend,
    unused_gpu,
)
from ed2.terminal import LAUNCHER

if TYPE_CHECKING:
    from collections.abc import Sequence

LOW_DISK_GB = 20
PORT, PORTS_TRIED = 7860, 20
"""The port of the page, and how many it tries, as ed2/ui/serving.py does."""
TEST_MINUTES = 15


def doctor() -> int:
    """Repair what can be repaired, then print facts and problems in any case; 1 if there are problems, else 0."""
    problems: list[str] = []
    try:
        install()
        repaired = repair()
    except LaunchError as error:
        repaired = []
        problems = [f"Installation failed: {error}", *(f"  {hint}" for hint in error.hints)]
    torch, gpus = installed_torch(), find_gpus()
    _print_facts(system_facts(torch, gpus))
    problems += [*unused_gpu(torch, gpus), *system_problems()]
    if torch and (ROOT / "ed2" / "__main__.py").is_file():
        facts, found = self_test()
        _print_facts(facts)
        problems += found
    if gpus and gpus[0].is_amd:
        print(f"\n{UNTESTED.strip()}")
    if repaired:
        print("", "Repaired:", *(f"  {line}" for line in repaired), sep="\n")
    print("", *(problems or [f"No problems found. Start with {LAUNCHER}."]), sep="\n")
    return int(bool(problems))


def _print_facts(facts: dict[str, str]) -> None:
    for name, fact in facts.items():
        print(f"{name:<11}{fact}", flush=True)


def repair() -> list[str]:
    """Install again what is not as this version needs it, and say what that was; empty if nothing was wrong.

    Raises:
        LaunchError: it cannot be installed, or is wrong afterwards too.
    """
    wrong = wrong_packages()
    torch, gpus = installed_torch(), find_gpus()
    if torch is None or (torch.version.endswith("+cpu") and torch_backend(gpus) != "cpu"):
        with locked():
            new = install_torch(gpus)
        wrong.append(f"PyTorch {torch.version if torch else '(not working)'} in place of {new.version}")
    if not wrong:
        return []
    say("Repairing the installation ...")
    require_space(1)
    for name in (".installed", ".installed-dev"):
        (VENV / name).unlink(missing_ok=True)
    install()
    if still := wrong_packages():
        raise LaunchError(f"packages are still not as tested: {', '.join(still)}", f"Delete {VENV} and start again.")
    return wrong


def wrong_packages() -> list[str]:
    """The packages that are missing or of another version than the tested one, as text."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    wrong = []
    for name, wanted in pinned.items():
        found = _version(name)
        if found and found != wanted:
            wrong.append(f"{name} {found} in place of {wanted}")
    for name, marker in re.findall(r"^([\w-]+)[^;\n]*(;.*)?$", (ROOT / "requirements.txt").read_text("utf-8"), re.M):
        is_for_here = not (marker and sys.platform == "darwin")
        if name != "torch" and is_for_here and not _version(name):
            wrong.append(f"{name} missing")
    return wrong


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def system_facts(torch: Torch | None, gpus: Sequence[Gpu]) -> dict[str, str]:
    """What this computer has, by name."""
    memory_gb = system_memory_gb()
    return {
        "program": f"{ed2.__version__} in {ROOT}",
        "Python": f"{sys.version.split()[0]} ({sys.executable})",
        "packages": "installed" if is_installed() else "incomplete",
        "PyTorch": f"{torch.version} on {torch.device or 'the CPU'}" if torch else "not installed",
        "GPU": "; ".join(f"{gpu.name}, {gpu.memory_gb or 0:.1f} GB" for gpu in gpus) or "no NVIDIA GPU found",
        "driver": gpus[0].driver if gpus else "-",
        "free disk": f"{free_disk_gb(ROOT):.1f} GB",
        "memory": f"{memory_gb:.1f} GB" if memory_gb else "unknown",
        "port": port_fact(),
        "proxy": proxy_fact(getproxies()),
    }


def port_fact() -> str:
    """The port that the page would use."""
    free = free_port()
    if free is None:
        return f"{PORT} to {PORT + PORTS_TRIED - 1} are all in use"
    return f"{free} is free for the page" + ("" if free == PORT else f" ({PORT} is in use)")


def free_port() -> int | None:
    """The first free port for the page; None if all that it tries are in use."""
    for port in range(PORT, PORT + PORTS_TRIED):
        with socket.socket() as probe:
            # Elsewhere than on Windows, a port that was closed a moment ago can be used again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return None


def proxy_fact(proxies: dict[str, str]) -> str:
    """The proxies that are set, without their passwords."""
    named = {name: address for name, address in proxies.items() if name != "no"}
    return ", ".join(f"{name} {_without_password(address)}" for name, address in sorted(named.items())) or "none"


def _without_password(address: str) -> str:
    return re.sub(r"(?<=//)[^@/]*@|^[^@/]*@", "...@", address)


def system_problems() -> list[str]:
    """Lines on problems of this computer, each followed by what to do."""
    problems = []
    if "WindowsApps" in sys.base_prefix:
        problems += [
            "Python comes from the Microsoft Store, which hides files from other programs.",
            f"  Install it from python.org, delete {VENV} and start again.",
        ]
    if free_disk_gb(ROOT) < LOW_DISK_GB:
        problems += [
            "The disk is nearly full: a checkpoint takes 2 to 4 GB.",
            "  Free some space before a long run.",
        ]
    if free_port() is None:
        problems += ["No port is free for the page.", f"  Close pages that still run, or: {LAUNCHER} --port 9000"]
    problems += [
        line
        for name, address in getproxies().items()
        if name in ("http", "https", "all") and not _is_address(address)
        for line in (f"The {name} proxy is set to something that is no address.", f"  Correct or unset {name}_proxy.")
    ]
    return problems


def _is_address(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def self_test() -> tuple[dict[str, str], list[str]]:
    """What `python -m ed2 doctor` finds: facts by name, and lines on problems."""
    say("Testing attention, 8-bit Adam, a training step and the disk ...")
    command = [sys.executable, "-X", "utf8", "-m", "ed2", "doctor", "--json"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=program_environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=60 * TEST_MINUTES,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {}, [f"The tests did not end within {TEST_MINUTES} minutes.", "  Close other programs and try again."]
    except ValueError:  # it ended without an answer
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        fix = f"  To see more, run: {' '.join(command[:-1])}"
        return {}, [f"The tests ended with code {done.returncode}; the last message was: {last}", fix]
    return found["facts"], found["problems"]


def system_memory_gb() -> float | None:
    """This computer's memory in GB of 2**30 bytes; None if the system does not say."""
    if sys.platform == "win32":
        import ctypes

        # GlobalMemoryStatusEx fills in two 32-bit fields, then total, free and five more of 64 bits.
        fields = (ctypes.c_uint64 * 8)()
        fields[0] = ctypes.sizeof(fields)
        library = getattr(ctypes, "windll", None)
        if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(fields)):
            return None
        return fields[1] / 2**30
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (OSError, ValueError):
        return None
