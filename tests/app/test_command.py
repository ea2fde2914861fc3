"""The program as a user starts it: what it prints, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.command import main
from ed2.app.signals import stopping_on_signals
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import RESOLUTIONS
from tests.runs import differing

TRAIN = PROGRAM_DIR / "train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def program(*argv: object, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, str(TRAIN), *map(str, argv)]
    return subprocess.run(command, cwd=PROGRAM_DIR, env=ENVIRONMENT, capture_output=True, text=True, timeout=110)


@pytest.fixture
def flags(tmp_path: Path, sd1: Path, images: Path) -> list[object]:
    (tmp_path / "prompts.txt").write_text("")
    return [
        *("--data_root", images, "--resume_ckpt", sd1, "--resolution", 64, "--project_name", "tiny", "--lr", 1e-3),
        *("--logdir", tmp_path / "logs", "--save_ckpt_dir", tmp_path, "--sample_prompts", tmp_path / "prompts.txt"),
    ]


def test_without_arguments_it_prints_how_to_start_and_the_resolutions_without_torch() -> None:
    done = program(python=("-X", "importtime"))
    assert done.returncode == 0
    assert "--data_root IMAGES --resume_ckpt MODEL" in done.stdout
    shown = [line.split() for line in done.stdout.splitlines()]
    assert [int(words[0]) for words in shown if words and words[0] in map(str, RESOLUTIONS)] == list(RESOLUTIONS)
    assert "512x512 576x448 640x384 768x320 1024x256" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "diffusers", "transformers", "gradio"}


def test_wrong_settings_are_all_listed_and_end_with_2(flags: list[object]) -> None:
    done = program(*flags, "--batch_size", 0, "--max_epochs", "many")
    assert done.returncode == 2
    assert "2 settings are wrong:" in done.stderr
    assert "batch_size: 0 is not allowed" in done.stderr
    assert "max_epochs: 'many' is not allowed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "libraries" not in done.stdout, "wrong settings are told before torch is read"


def test_wrong_flags_values_and_paths_are_reported_in_one_list(flags: list[object], tmp_path: Path) -> None:
    flags[1], flags[3] = tmp_path / "nowhere", tmp_path / "gone"
    done = program(*flags, "--batchsize", 3, "--cond_dropout", "much", "--max_epochs")
    assert done.returncode == 2
    told = [line.split(":")[0].strip() for line in done.stderr.splitlines()]
    assert told == [
        *("", "5 settings are wrong", "--max_epochs", "--batchsize", "cond_dropout", "data_root", "resume_ckpt"),
    ]


def test_every_missing_path_is_reported_before_anything_is_read(
    flags: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags[1], flags[3], flags[11] = tmp_path / "nowhere", "nobody/nothing", tmp_path / "file" / "logs"
    gone = ["--val_split_mode", "manual", "--manual_data_root", "gone", "--extra_manual_datasets", "a=gone"]
    assert main([*map(str, flags), *gone, "--ema_decay_rate", "0.9", "--ema_resume_model", "gone"]) == 2
    told = [line.split(":")[0].strip() for line in capsys.readouterr().err.splitlines()[2:]]
    assert told == [
        "manual_data_root",
        "extra_manual_datasets",
        "ema_resume_model",
        "logdir",
        "data_root",
        "resume_ckpt",
    ]
    assert main([*map(str, flags), "--optimizer_config", "gone.json"]) == 2
    told = [line.split(":")[0].strip() for line in capsys.readouterr().err.splitlines()[2:]]
    assert told == ["optimizer_config", "logdir", "data_root", "resume_ckpt"]
    assert main([*map(str, flags), "--ema_resume_model", "gone"]) == 2
    assert "ema_resume_model" not in capsys.readouterr().err, "no average is kept"


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["--max_epochs", "3"], 2, "data_root: no folder"),
        (["--max_epochs", "3"], 2, "resume_ckpt: no base model is given. Set --resume_ckpt"),
        (["--config", "gone.json", "--lr", "5"], 2, "gone.json: the file does not exist"),
        (["--config", "gone.json", "--lr", "5"], 2, "lr: 5.0 is not allowed"),
        (["--check", "--data_root", "gone"], 3, "the folder does not exist"),
        (["--check", "--data_root", "gone", "--lr", "5"], 2, "data_root: there is no folder"),
        (["--check", "--resume_ckpt", "gone", "--lr", "5"], 2, "1 setting is wrong"),
    ],
)
def test_a_single_missing_path_keeps_its_exit_code_and_several_are_reported_together(
    argv: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert told in capsys.readouterr().err


def test_check_answers_in_one_json_object_without_torch(images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "more"
    broken.mkdir()
    (broken / "cut.png").write_bytes((images / "00.png").read_bytes()[:300])
    argv = ["--check", "--json", "--data_root", images, broken, "--resolution", 64, "--batch_size", 4]
    done = program(*argv, python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr[-500:]
    answer = json.loads(done.stdout)
    assert {"images", "buckets", "steps_per_epoch", "total_steps", "problems", "disk"} <= answer.keys()
    assert len(answer["images"]) == 8
    assert set(answer["images"][0]) == {"path", "root", "caption", "size", "bucket", "crop", "multiply", "problems"}
    assert answer["total_steps"] == 300 * answer["steps_per_epoch"]
    paths = [problem["path"] for problem in answer["problems"]]
    assert paths == ["cut.png", None]
    assert "No base model is chosen yet" in answer["problems"][1]["what"]
    assert any(note["what"].startswith("Batches hold") for note in answer["notes"]), answer["notes"]
    assert set(answer["disk"]) == {"checkpoint_bytes", "checkpoints", "cache_bytes", "free_bytes"}
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())


def test_check_of_a_folder_without_images_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--data_root", str(tmp_path)]) == 3
    assert str(tmp_path) in capsys.readouterr().err


def test_a_missing_model_fails_with_its_path_and_no_traceback(
    flags: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags[3] = tmp_path / "gone"
    assert main([*map(str, flags)]) == 1
    said = capsys.readouterr()
    assert f"resume_ckpt: there is no model {tmp_path / 'gone'}." in said.err
    assert "Traceback" not in said.out + said.err


@pytest.fixture
def running(flags: list[object]) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-u", str(TRAIN), *map(str, flags), "--max_epochs", "500", "--log_step", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_stops_after_the_step_saves_and_sets_the_exit_code(
    running: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert running.stdout
    for line in running.stdout:
        if line.startswith("Step 3/"):
            running.send_signal(signal.SIGINT)
            break
    rest = running.stdout.read()
    assert running.wait(60) == 130
    assert "Stopping: the run will be saved after this step." in rest
    assert "Stopped after" in rest
    (checkpoint,) = (tmp_path / "logs").glob("*/ckpts/interrupted-tiny-ep*")
    assert (checkpoint / "training_state" / "state.json").is_file()
    assert not differing(checkpoint, checkpoint)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_each_stop_signal_requests_a_stop_with_its_number(number: signal.Signals) -> None:
    asked: list[int] = []
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with stopping_on_signals(asked.append):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert asked == [number]


def test_a_signal_ignored_by_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_on_signals(pytest.fail):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_finished_run_says_so_and_ends_with_0(
    flags: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*map(str, flags), "--max_epochs", "1"]) == 0
    assert "Done after 5 steps" in capsys.readouterr().out
    assert main(["--resume_ckpt", "findlast", "--logdir", "logs"]) == 0
    again = capsys.readouterr()
    assert "Preparing: comparing every byte of last-tiny-ep00-gs00005, " in again.out
    assert "max_epochs: last-tiny-ep00-gs00005 has completed its 1 epoch." in again.err
    assert "Raise max_epochs to keep training: --max_epochs 2." in again.err


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
def test_an_unwritable_temporary_folder_is_reported_before_the_libraries_fail(flags: list[object]) -> None:
    """As on a full disk, which just those meet who go on once it was full."""
    commands = [["train.py", *map(str, flags)], ["train.py", "--test_resume", *map(str, flags)], ["webui.py"],
                ["-m", "ed2", "convert", "a", "b"]]  # fmt: skip
    for command in commands:
        limited = ["bash", "-c", 'ulimit -f 0; exec "$@"', "-", sys.executable, *command]
        done = subprocess.run(limited, cwd=PROGRAM_DIR, env=ENVIRONMENT, capture_output=True, text=True, timeout=110)
        assert done.returncode == 1, command
        assert "No folder for temporary files is writable: the disk is full" in done.stderr
        assert "set TMPDIR" in done.stderr and "Traceback" not in done.stderr
