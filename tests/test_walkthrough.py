"""The commands that the documentation shows, run: as far as a check, and one training from start to single file."""

import re
import shlex
from pathlib import Path

import pytest

from ed2 import __main__ as models_command
from ed2.app.command import main
from ed2.launcher import launch
from ed2.settings import cli
from ed2.settings.files import PROGRAM_DIR
from tests.tiny import make_images

LAUNCHER = re.compile(r"\./launch\.sh (train|check)([^`)\n]*)")
OF_MODELS = re.compile(rf"\./launch\.sh ({'|'.join(launch.OF_MODELS)})\b")
PAGES = sorted(
    path.relative_to(PROGRAM_DIR).as_posix() for path in [PROGRAM_DIR / "README.md", *PROGRAM_DIR.glob("docs/*.md")]
)
BASE = PROGRAM_DIR / "ed2" / "demo" / "base"


def commands(page: str) -> list[list[str]]:
    """The commands of `train` and `check` on a page, each as its options."""
    found = LAUNCHER.findall((PROGRAM_DIR / page).read_text(encoding="utf-8"))
    return [["--check"] * (word == "check") + shlex.split(options) for word, options in found]


def runnable(options: list[str], images: Path) -> list[str]:
    """The options with real images and a real model, and with a check in place of a training."""
    places = {"IMAGES": str(images), "MODEL": str(BASE)}
    real = [places.get(option, option) for option in options]
    return real if {"--check", "--suggest"} & set(real) or not real else ["--check", *real]


def needs_more(options: list[str]) -> bool:
    """Whether a command is for a run that is there already, tests a resume, or is only quoted in part."""
    text = " ".join(options)
    return any(word in text for word in ("findlast", "logs/", "--test_resume", "...", "--help", "--config train.json"))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(PROGRAM_DIR)
    return make_images(tmp_path / "IMAGES", [(640, 512), (512, 640)] * 6)


@pytest.mark.parametrize("page", [page for page in PAGES if any(not needs_more(words) for words in commands(page))])
def test_the_commands_of_a_page_run(page: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in commands(page):
        if not needs_more(options) and ("--data_root" in options or "--suggest" in options or "--config" in options):
            code = main(runnable(options, images))
            assert code == 0, (options, capsys.readouterr().err)


def test_the_first_training_runs_from_images_to_a_file_and_on(images: Path, tmp_path: Path) -> None:
    words = [options for options in commands("docs/first-training.md") if "--check" not in options]
    first = next(options for options in words if "MODEL" in options)
    small = ["--resolution", "64", "--sample_prompts", "none", "--logdir", str(tmp_path / "logs"), "--no-amp"]
    small += ["--save_ckpt_dir", str(tmp_path / "files"), "--cache_dir", str(tmp_path / "cache")]
    places = {"IMAGES": str(images), "MODEL": str(BASE)}
    first = [places.get(option, option) for option in first]
    assert main([*first, *small, "--max_epochs", "1"]) == 0
    last = next(options for options in words if "findlast" in options and "--max_epochs" in options)
    last[last.index("--max_epochs") + 1] = "2"
    assert main([*last, "--logdir", str(tmp_path / "logs")]) == 0
    files = sorted(path.name for path in (tmp_path / "files").glob("*.safetensors"))
    assert any(name.startswith("last-rex-ep01") for name in files), files


@pytest.mark.parametrize("page", PAGES)
def test_every_other_command_of_a_page_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in set(OF_MODELS.findall((PROGRAM_DIR / page).read_text(encoding="utf-8"))):
        assert word == "convert" or word in models_command.COMMANDS, word
        assert models_command.main([word, "--help"]) == 0
    for options in commands(page):
        assert cli.parse(options).problems == (), options
