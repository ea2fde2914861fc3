"""`launch.sh doctor`, and the GPUs of AMD: stand-ins only for pip and the files of Linux."""

import contextlib
import re
import socket
from pathlib import Path

import pytest

from ed2.launcher.install import Torch, amd_gpus, torch_arguments, torch_backend, unused_gpu
from tests.launcher import PROGRAM, Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path).make_venv()
    program.write("train.py", PROGRAM)
    return program


def test_doctor_reports_even_if_the_installation_failed(program: Program) -> None:
    code, report, _ = program.run("doctor", STUB_FAILS="torch==2.13.0")
    assert code == 1
    assert "PyTorch    not installed" in report
    assert "Installation failed: PyTorch could not be installed" in report
    code, report, _ = program.run("doctor")
    assert "PyTorch    2.13.0+cpu on the CPU" in report
    assert "packages   installed" in report


def test_doctor_installs_again_what_was_changed_or_removed(program: Program) -> None:
    program.run("train")
    packages = next((program.root / ".venv").glob("lib/python*/site-packages"))
    (packages / "pillow.dist-info/METADATA").write_text("Name: pillow\nVersion: 1.0\n")
    (packages / "gradio.dist-info/METADATA").unlink()
    code, report, _ = program.run("doctor")
    assert "Repaired:" in report, report
    assert "  pillow 1.0 in place of " in report and "  gradio missing" in report
    assert code == int("disk is nearly full" in report)
    assert "Repaired" not in program.run("doctor")[1]


def test_doctor_says_what_it_cannot_repair(program: Program) -> None:
    program.run("train")
    packages = next((program.root / ".venv").glob("lib/python*/site-packages"))
    (packages / "pillow.dist-info/METADATA").write_text("Name: pillow\nVersion: 1.0\n")
    code, report, _ = program.run("doctor", STUB_FAILS="constraints.txt")
    assert code == 1
    assert "Installation failed: the packages could not be installed" in report


def test_doctor_names_port_and_proxy_and_keeps_passwords_to_itself(program: Program) -> None:
    program.run("train")
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another program has it: as well
            busy.bind(("127.0.0.1", 7860))
            busy.listen()
        report = program.run("doctor", https_proxy="http://ada:secret@proxy.example:3128", HTTP_PROXY="nowhere:x")[1]
    assert re.search(r"port +78\d\d is free for the page \(7860 is in use\)", report), report
    assert "https http://...@proxy.example:3128" in report
    assert "secret" not in report
    assert "The http proxy is set to something that is no address." in report


def fake_amd(root: Path, memory_gb: float, vendor: str = "0x1002") -> None:
    """The files in which Linux tells of an AMD GPU."""
    card = root / "sys/class/drm/card1/device"
    card.mkdir(parents=True, exist_ok=True)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev/kfd").touch()
    (card / "vendor").write_text(f"{vendor}\n")
    (card / "mem_info_vram_total").write_text(f"{int(memory_gb * 2**30)}\n")
    (card / "product_name").write_text("Radeon RX 7900 XTX\n")


def test_an_amd_gpu_on_linux_gets_the_build_for_rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ED_TORCH", raising=False)
    assert amd_gpus(tmp_path) == []
    fake_amd(tmp_path, 24)
    (gpu,) = amd_gpus(tmp_path)
    assert (gpu.name, gpu.memory_gb, gpu.is_amd) == ("Radeon RX 7900 XTX", 24, True)
    backend = torch_backend([gpu])
    assert re.fullmatch(r"rocm\d\.\d", backend)
    assert torch_arguments(backend, "linux")[-1] == f"torch==2.13.0+{backend}"
    assert "sudo usermod -aG render,video" in "".join(unused_gpu(Torch("2.13.0+cpu", ""), [gpu]))
    (tmp_path / "dev/kfd").unlink()  # the driver of the kernel is not loaded
    assert torch_backend(amd_gpus(tmp_path)) == "cpu"


def test_an_amd_gpu_in_a_processor_is_not_trained_on(tmp_path: Path) -> None:
    fake_amd(tmp_path, 0.5)
    assert amd_gpus(tmp_path) == []
    fake_amd(tmp_path, 24, vendor="0x8086")
    assert amd_gpus(tmp_path) == []
