"""The report of a run: everything in one file, and no folder of this computer."""

import re
from pathlib import Path

import pytest

from ed2.app.runs.records import RunNotes, find_run
from ed2.ui.report import COMMAND, spread, write_report
from tests.runs import Values, train
from tests.ui.test_runs import recorded_run

ADDRESS = re.compile(r'(?:src|href)="([^"]*)"')


def test_a_report_of_a_real_run_holds_everything_and_names_no_folder(
    tmp_path: Path, sd1: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat and/or a dog\n")
    values: Values = {
        "project_name": "tiny",
        "data_root": [str(images)],
        "resume_ckpt": str(sd1),
        "resolution": 64,
        "max_epochs": 2,
        "sample_prompts": str(prompts),
        "logdir": str(tmp_path / "logs"),
        "save_ckpt_dir": str(tmp_path / "files"),
        "val_split_mode": "automatic",
        "auto_split_proportion": 0.25,
        "every_n_epochs": 1,
    }
    run = train(values).run_dir
    RunNotes("My <run>", f"from {images} and with </script> in it").write(run)
    assert COMMAND.run([str(run)]) == 0
    assert "report.html" in capsys.readouterr().out
    html = (run / "report.html").read_text()
    for words in ("My &lt;run&gt;", "a cat and/or a dog", "max_epochs", "Fingerprint", "last-tiny-ep01", "torch"):
        assert words in html
    assert html.count("data:image/webp") >= 3, "the cover, and two steps of a prompt"
    for folder in (tmp_path, images, sd1, Path.home(), Path(__file__).parents[2]):
        assert str(folder) not in html
    assert all(address.startswith("data:") for address in ADDRESS.findall(html.partition("<script>")[0]))
    assert "</script> in it" not in html
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "report.html"}
    write_report(find_run(run.parent, run.name))
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("argv", [["/nowhere"], ["."], ["a", "b"], [""]])
def test_what_is_no_run_is_told(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.run(argv) == 2
    assert "Invalid command line" in capsys.readouterr().err


def test_a_damaged_run_has_a_report_too(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat")
    for name in ("settings.json", "samples/gs00010/00.png"):
        (run / name).write_bytes(b"\0")
    html = write_report(find_run(tmp_path, run.name)).read_text()
    assert "cat-ep02" in html and str(tmp_path) not in html


def test_many_steps_are_thinned_to_the_first_the_last_and_some_between() -> None:
    assert spread(list(range(0, 1000, 10)), 5) == [0, 250, 500, 740, 990]
    assert spread([3, 7], 5) == [3, 7]
