"""launch.sh as a user starts it: stand-ins only for pip, nvidia-smi and the program itself."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.launcher import PROGRAM, ROOT, Program


@pytest.fixture
def bare(tmp_path: Path) -> Program:
    program = Program(tmp_path)
    program.stub("python3", f'exec {sys.executable} "$@"')
    return program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path).make_venv()
    program.write("train.py", PROGRAM)
    return program


def test_usage_lists_the_commands_that_exist_and_makes_no_environment(bare: Program) -> None:
    code, usage, _ = bare.run("--help")
    assert code == 0
    assert re.findall(r"^  (\w+)", usage, re.M) == ["add", "doctor"]
    for name in ("train.py", "webui.py", "presets/demo.json", "scripts/check"):
        bare.write(name, "")
    words = re.findall(r"^  (\w+)", bare.run("help")[1], re.M)
    assert words == ["webui", "train", "demo", "check", "test", "add", "doctor"]
    assert not (bare.root / ".venv").exists()


def test_without_a_command_the_usage_is_printed_until_the_page_exists(program: Program) -> None:
    assert program.run()[0] == 0
    assert program.run("--port", "1")[0] == 2
    program.write("webui.py", PROGRAM)
    assert json.loads(program.run()[1])[0] == []
    assert json.loads(program.run("--port", "1")[1])[0] == ["--port", "1"]


def test_commands_on_models_go_to_the_package_with_their_name(program: Program) -> None:
    assert program.run("merge", "a", "b")[0] == 2
    program.write("ed2/__main__.py", PROGRAM)
    assert json.loads(program.run("merge", "a", "b")[1])[0] == ["merge", "a", "b"]
    assert "extract-lora" in program.run("--help")[1]


def test_the_package_runs_by_its_path_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "ed2" / "__main__.py"), "models", "--help"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("./launch.sh models")


def test_an_unknown_command_exits_with_2_and_names_the_nearest(program: Program) -> None:
    code, output, errors = program.run("trian", "--x")
    assert (code, output) == (2, "")
    assert "did you mean 'train'?" in errors
    assert "usage:" in errors


def test_a_supported_python_is_found_behind_old_and_broken_ones(bare: Program) -> None:
    bare.stub("python3.12", "echo 'command not found' >&2; exit 127")
    bare.stub("python3.13", 'case "$2" in *exit*) exit 1;; esac; echo 3.9')
    assert bare.run("--help")[0] == 0


def test_only_unsupported_pythons_are_named_in_the_error(bare: Program) -> None:
    for name, version in (("python3", "3.9"), ("python", "3.15")):
        bare.stub(name, f'case "$2" in *exit*) exit 1;; esac; echo {version}')
    code, _, errors = bare.run("train")
    assert code == 1
    assert "Python 3.11 to 3.14 is needed, but python3 is 3.9, python is 3.15." in errors
    (bare.bin / "python3").unlink()
    (bare.bin / "python").unlink()
    assert "none was found" in bare.run("train")[2]
    assert bare.run("--help", PYTHON=sys.executable)[0] == 0


def test_arguments_folder_and_exit_code_are_the_programs(program: Program, tmp_path: Path) -> None:
    arguments = ["--a", "two words", "ünï", "", "*", 'it\'s "quoted"', "$HOME", "--config", "a/b.json"]
    elsewhere = tmp_path / "where I stand"
    elsewhere.mkdir()
    code, output, _ = program.run("train", *arguments, cwd=elsewhere, PYTHONPATH="/nowhere", PYTHONHOME="/nowhere")
    assert code == 5
    assert json.loads(output) == [arguments, str(elsewhere)]


def test_check_and_demo_put_their_options_before_the_users(program: Program) -> None:
    assert json.loads(program.run("check", "--json")[1])[0] == ["--check", "--json"]
    program.write("presets/demo.json", "{}")
    preset = str(program.root / "presets/demo.json")
    assert json.loads(program.run("demo", "--seed", "1")[1])[0] == ["--config", preset, "--seed", "1"]


def test_a_link_to_the_script_starts_the_program(program: Program, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(program.root / "launch.sh")
    assert subprocess.run([tmp_path / "link", "train"], env={"PATH": str(program.bin)}, check=False).returncode == 5


def test_packages_are_installed_once_and_again_when_the_list_changes(program: Program) -> None:
    assert "Step 1 of 2: downloading PyTorch" in program.run("train")[2]
    first, second = program.pip_calls()
    assert "torch==2.13.0" in first
    assert "torch==2.13.0+cpu" in second  # held where it is
    assert {"-r", "-c"} <= set(second)
    assert not [argument for argument in second if argument.startswith("pytest")]
    assert program.run("train")[2] == ""
    assert len(program.pip_calls()) == 2
    program.write("constraints.txt", "# new\n")
    program.run("train")
    assert len(program.pip_calls()) == 3  # PyTorch is left alone


def test_an_interrupted_installation_continues_at_the_next_start(program: Program) -> None:
    code, output, errors = program.run("train", STUB_FAILS="constraints.txt")
    assert (code, output) == (1, "")
    assert "ERROR: the packages could not be installed" in errors
    assert program.run("train")[0] == 5
    assert len(program.pip_calls()) == 3  # the second start did not install PyTorch again
    assert program.run("train")[2] == ""


def test_the_tests_bring_their_own_tools(program: Program) -> None:
    program.write("scripts/check", PROGRAM)
    program.run("train")
    assert program.run("test", "-k", "x")[0] == 5
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    assert program.pip_calls()[-1][-len(dev) :] == dev
    program.run("train")
    program.run("test")
    assert len(program.pip_calls()) == 3


@pytest.mark.parametrize(
    ("gpus", "build"),
    [
        ("NVIDIA GeForce RTX 4090, 581.08, 24564, 8.9", "cu130"),
        ("NVIDIA GeForce RTX 3060, 560.35.03, 12288, 8.6", "cu126"),
        ("NVIDIA GeForce GTX 1080 Ti, 580.95, 11264, 6.1", "cu126"),
        ("NVIDIA GeForce RTX 5090, 580.95, 32607, 12.0", "cu130"),
        ("NVIDIA H100, 580.95, [N/A], [N/A]\nNVIDIA H100, 580.95, [N/A], [N/A]", "cu130"),
    ],
)
def test_the_build_of_pytorch_suits_gpu_and_driver(program: Program, gpus: str, build: str) -> None:
    program.stub("nvidia-smi", f"cat <<'END'\n{gpus}\nEND")
    errors = program.run("train")[2]
    call = program.pip_calls()[0]
    assert call[call.index("--extra-index-url") + 1].endswith(f"/{build}")
    assert call[-1] == ("torch==2.13.0" if build == "cu130" else f"torch==2.13.0+{build}")
    assert "is not used: PyTorch 2.13.0+cpu finds no CUDA" in errors  # the stub's PyTorch


def test_a_gpu_whose_driver_is_too_old_is_refused(program: Program) -> None:
    program.stub("nvidia-smi", "echo NVIDIA GeForce RTX 5090, 572.16, 32607, 12.0")
    code, _, errors = program.run("train")
    assert code == 1
    assert "needs NVIDIA driver 580 or newer, but this computer has 572.16" in errors
    assert program.run("train", ED_TORCH="cpu")[0] == 5
    assert program.pip_calls()[0][-1] == "torch==2.13.0"


def test_a_driver_too_old_to_know_compute_capability_is_asked_again(program: Program) -> None:
    program.stub("nvidia-smi", 'case "$1" in *compute_cap*) exit 2;; esac; echo GeForce, 530.1, 8192')
    program.run("train")
    assert program.pip_calls()[0][-1] == "torch==2.13.0+cu126"


@pytest.mark.parametrize("script", ["echo NVIDIA-SMI has failed; exit 9", "exit 0"])
def test_a_broken_nvidia_smi_counts_as_no_gpu(program: Program, script: str) -> None:
    program.stub("nvidia-smi", script)
    assert "no NVIDIA GPU found" in program.run("train")[2]
    assert program.pip_calls()[0][-1] == "torch==2.13.0"


def test_ed_torch_is_checked(program: Program) -> None:
    assert "ERROR: ED_TORCH is 'gpu'" in program.run("train", ED_TORCH="gpu")[2]
    program.run("train", ED_TORCH="rocm7.1")
    assert program.pip_calls()[0][-1] == "torch==2.13.0+rocm7.1"


def test_two_starts_at_once_install_one_after_the_other(program: Program) -> None:
    starts = [program.start("train", STUB_SECONDS="0.5") for _ in range(2)]
    errors = [process.communicate(timeout=200)[1] for process in starts]
    assert [process.returncode for process in starts] == [5, 5]
    assert len(program.pip_calls()) == 2
    assert sum("waiting for it" in text for text in errors) == 1


def test_ctrl_c_goes_to_the_program_which_is_waited_for(program: Program) -> None:
    program.run("train")
    wait = "try: print('on', flush=True); time.sleep(60)"
    program.write(
        "train.py", f"import time\n{wait}\nexcept KeyboardInterrupt: time.sleep(0.3); print('saved'); exit(130)"
    )
    process = program.start("train")
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "saved\n"
    assert process.returncode == 130


def test_add_installs_a_package_alone_and_notices_a_changed_pytorch(program: Program) -> None:
    code, _, errors = program.run("add", "xformers", "prodigy")
    assert code == 0
    assert "Added xformers, prodigy. PyTorch 2.13.0+cpu is unchanged." in errors
    assert "--no-deps" in program.pip_calls()[-1]
    assert (
        "the installation changed PyTorch 2.13.0+cpu to PyTorch 2.10.0"
        in program.run("add", "xformers", STUB_TORCH="2.10.0")[2]
    )
    code, _, errors = program.run("add", "dev")
    assert code == 1
    assert "Choose from: xformers, prodigy, schedulefree, heif." in errors


@pytest.mark.parametrize(
    ("name", "package"),
    [("xformers", "xformers"), ("prodigy", "prodigyopt"), ("schedulefree", "schedulefree"), ("heif", "pillow-heif")],
)
def test_each_optional_package_can_be_added(program: Program, name: str, package: str) -> None:
    code, _, errors = program.run("add", name)
    assert code == 0, errors
    assert f"Added {name}. PyTorch 2.13.0+cpu is unchanged." in errors
    (*options, requirement) = program.pip_calls()[-1]
    assert "--no-deps" in options and requirement.startswith(f"{package}>=")


def test_an_offline_second_start_asks_for_nothing(program: Program) -> None:
    program.run("train")
    offline = {"STUB_FAILS": "install", "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    assert program.run("train", **offline)[::2] == (5, "")
    assert len(program.pip_calls()) == 2


def test_an_installation_that_was_killed_continues_at_the_next_start(program: Program) -> None:
    process = program.start("train", STUB_SECONDS="60")
    while not program.pip_calls():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert program.run("train")[0] == 5
    assert program.run("train")[2] == ""


def test_a_second_start_is_quick(program: Program) -> None:
    program.run("train")
    start = time.monotonic()
    program.run("train")
    assert time.monotonic() - start < 2  # 0.1 s on an idle machine


def fake_wheel(folder: Path, version: str) -> None:
    """A wheel of PyTorch that only says which it is."""
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        code = f"__version__ = {version!r}\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
        info = f"torch-{version}.dist-info"
        wheel.writestr("torch.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Proxy(http.server.BaseHTTPRequestHandler):
    """A company's proxy: the only way to an index of packages. `folder` holds its wheels."""

    folder = Path()

    def do_GET(self) -> None:
        host, _, path = self.path.removeprefix("http://").partition("/")
        wheels = sorted(self.folder.glob(f"{Path(path).name}-*.whl" if path.endswith("/") else Path(path).name))
        if host != "packages.example" or not wheels:
            self.send_error(404)
            return
        page = "".join(f'<a href="/files/{quote(wheel.name)}">{wheel.name}</a>' for wheel in wheels).encode()
        content = page if path.endswith("/") else wheels[0].read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/zip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_packages_are_installed_through_a_proxy(bare: Program, tmp_path: Path) -> None:
    bare.write("requirements.txt", "torch>=2.10,<3\n")
    bare.write("constraints.txt", "")
    bare.write("train.py", PROGRAM)
    fake_wheel(tmp_path, "2.13.0")
    handler = type("Handler", (Proxy,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        index = {"PIP_INDEX_URL": "http://packages.example/simple", "PIP_TRUSTED_HOST": "packages.example"}
        behind = {"http_proxy": address, "https_proxy": address, "PIP_CONFIG_FILE": os.devnull, **index}
        code, output, errors = bare.run("train", "x", **behind)
        server.shutdown()
    assert (code, json.loads(output)[0]) == (5, ["x"]), errors
    assert "Installed. PyTorch 2.13.0 on the CPU" in errors


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_half_made_environment_is_made_again_and_filled_by_the_real_pip(bare: Program, tmp_path: Path) -> None:
    bare.write(".venv/.partial", "")
    bare.write(".venv/bin/python", "rubbish")
    bare.write("requirements.txt", "torch>=2.10,<3\n")
    bare.write("constraints.txt", "")
    bare.write("train.py", PROGRAM)
    for version in ("2.13.0", "2.13.0+cpu"):
        fake_wheel(tmp_path, version)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    code, output, errors = bare.run("train", "x", **offline)
    assert (code, json.loads(output)[0]) == (5, ["x"]), errors
    assert "PyTorch 2.13.0+cpu on the CPU" in errors
    assert not (bare.root / ".venv/.partial").exists()


def test_a_folder_that_is_not_an_environment_is_left_alone(bare: Program) -> None:
    bare.write(".venv/holiday.txt", "mine")
    code, _, errors = bare.run("doctor")
    assert code == 1
    assert "is not a Python environment" in errors
    assert (bare.root / ".venv/holiday.txt").read_text() == "mine"
