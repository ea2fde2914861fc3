"""What the monitor page says where a text names folders of this computer."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ed2.app.reporters.log import describe
from ed2.app.run_view import RunView
from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from ed2.events import CheckpointSaved, MetricsLogged, PhaseChanged, RunEnded, Sample, SamplesMade, ValidationDone
from ed2.settings.files import PROGRAM_DIR
from ed2.ui.hiding import NOT_SHOWN, hiding, without_paths
from ed2.ui.html import log_html, problems_html, status_html
from ed2.ui.image_copies import ImageCopies
from ed2.ui.sharing import Sharing

LETTERS = "QXZJäöüß "
"""None of them, in a row of four, is in any sentence of the program."""
NAMES = st.text(LETTERS, min_size=4, max_size=12).map(lambda text: f"Q{text.strip()}Z").filter(lambda t: len(t) > 4)
STARTS = ("/", "C:\\", "d:/", "\\\\", "/home/", "/tmp/")
SENTENCES = (
    "there is no folder {}. Check the spelling, or choose it in the Dataset tab.",
    "{}: there is no such folder. Check its spelling.",
    "[Errno 28] No space left on device: {!r}",
    "The newest checkpoint is last-3 in {}",
    "12:00:01 The file {} could not be read (it is damaged); it is left out.",
    '12:00:01 Failed after 3 steps in 2.0 s: OSError: cannot open "{}"',
    "Changed since: logdir {} -> {}",
    "Continuing from {}: 4 images, 2 epochs.",
    "base=file://{}, 3/4 done at 2.0 images/s",
)


@given(
    st.lists(NAMES, min_size=2, max_size=5),
    st.sampled_from(STARTS),
    st.sampled_from(SENTENCES),
    st.booleans(),
    st.integers(0, 4),
)
@settings(max_examples=400, deadline=None)
def test_only_the_last_name_of_a_path_is_ever_shown(
    names: list[str], start: str, sentence: str, is_known: bool, depth: int
) -> None:
    separator = "\\" if "\\" in start else "/"
    path = start + separator.join(names)
    known = [start + separator.join(names[: depth + 1])] if is_known else []
    shown = without_paths(sentence.format(path, path), known)
    without_last = shown.replace(names[-1], "")
    if is_known:  # the folder that is known has a name of its own
        without_last = without_last.replace(names[min(depth, len(names) - 1)], "")
    assert not [name for name in names[:-1] if name in without_last], shown
    assert "/home" not in shown and "C:" not in shown and "\\" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no folder /tmp/audit/Max Muster/pics/nowhere. Check it.", "there is no folder nowhere. Check it."),
        ("C:\\Users\\Max Müller\\Images\\dog.png", "dog.png"),
        ("D:\\Fotos: this is a file.", "Fotos: this is a file."),
        ("\\\\nas\\share\\me\\x.png cannot be read.", "x.png cannot be read."),
        ("Get it from huggingface.co/me/model.", NOT_SHOWN),
        ("12:00:00 from Max Muster/pics/x.png", f"12:00:00 {NOT_SHOWN}"),
        (f"in {Path.home()} and here", "in … and here"),
    ],
)
def test_a_path_is_cut_to_its_last_name_and_uncertain_texts_are_not_shown(text: str, shown: str) -> None:
    assert without_paths(text) == shown


def test_known_folders_are_removed_one_by_one() -> None:
    text = "saved /home/me/logs/run_1/ckpts/last.x, from C:\\Users\\me\\pics\\a.png: 3/4 done"
    known = [PurePosixPath("/home/me/logs/run_1"), PureWindowsPath("c:/users/me/pics")]
    assert without_paths(text, [str(path) for path in known]) == "saved last.x, from a.png: 3/4 done"


def test_messages_of_a_run_without_paths_are_shown_unchanged() -> None:
    run = Path("logs/demo_1")
    image = Sample(0, run / "samples/gs00048/0.png", "a dog / a cat", "", 1, (7.0,), (64, 64))
    events = [
        MetricsLogged(3, {"loss/log_step": 0.5, "loss/other": 0.25, "performance/images per second": 2.0}),
        ValidationDone(3, {"loss/val": 0.1234}),
        PhaseChanged(3, "sampling"),
        RunEnded(3, "stopped", "stopped by the user", 3.0),
    ]
    for event in events:
        assert without_paths(describe(event)) == describe(event)
    assert without_paths(describe(SamplesMade(48, (image,), 3.2)), [run]) == "Step 48: 1 sample in gs00048 (3.2 s)."


def test_a_save_names_its_folder_and_single_file_but_on_the_monitor_only_their_names() -> None:
    run, single = Path("/runs/a_1"), Path("/my webui/models/last-a.safetensors")
    told = describe(CheckpointSaved(8, 1, "last", run / "ckpts/last-a", single, 9000, 0.5))
    assert told == f"Step 8: saved last-a (9.0 kB, 0.5 s) in /runs/a_1/ckpts, single file {single}."
    view = RunView()
    view.change("status", run_dir=run, single_file=single)
    sharing = Sharing(TrainerService(view), ImageCopies(64), dict)
    shown = without_paths(told, sharing.folders())
    sharing.service.close()
    assert shown == "Step 8: saved last-a (9.0 kB, 0.5 s) in ckpts, single file last-a.safetensors."


def test_no_part_of_the_monitor_shows_a_path() -> None:
    hide = hiding(lambda: ["/data/Max Muster", PROGRAM_DIR / "logs"])
    text = "no room in /data/Max Muster/pics/a.png"
    parts = [
        status_html(RunSnapshot(state="stopped", detail=text), hide=hide),
        problems_html([Problem("data_root", text), Problem("/data/Max Muster/pics/a.png", "is gone.")], hide=hide),
        log_html([f"12:00:00 {text}", f"12:00:00 in {PROGRAM_DIR / 'logs/x'}"], hide=hide),
    ]
    for part in parts:
        assert "Muster" not in part and "/data" not in part and str(PROGRAM_DIR) not in part
    assert "Image folders (data_root): no room in a.png" in parts[1]
    assert "in x<" in parts[2]
