"""Controls made from the schema, and back to settings."""

import re
import shlex
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.background import TaskStatus
from ed2.app.preflight import model_sizes
from ed2.app.run_view import RunView
from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot, State
from ed2.app.user_files import UserFiles
from ed2.data.folder import ScanOptions, scan
from ed2.errors import Problem, ProblemsError
from ed2.events import CheckpointSaved, PhaseChanged, Progressed, RunEnded, ValidationDone
from ed2.models.files.lora_base import BASE_FILE, LORA_FILE
from ed2.settings.checks import settings_from
from ed2.settings.cli import parse
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.form import Form, control_of, defaults, form_of_preset, from_control, to_control, with_one_optimizer
from ed2.ui.html import figures_html, log_html, on_page, problems_html, status_html, task_html
from ed2.ui.lora_panel import has_extractable
from ed2.ui.settings_tab import command_of
from ed2.ui.train_tab import AFTER_THE_RUN, NO_SINGLE_FILE, model_html
from tests.tiny import make_images

REQUEST = gr.Request(session_hash="1")


def test_every_default_survives_its_control() -> None:
    for name, spec in fields().items():
        default = defaults()[name]
        control_of(spec, default)
        assert from_control(spec, to_control(spec, default)) == default, name
    settings_from(defaults())


def test_typed_values_become_the_setting() -> None:
    typed = {"lr": "1e-6", "max_epochs": 3, "data_root": "a\n b \n", "save_ckpt_dir": "", "batch_size": 2.0}
    wanted = {"lr": 1e-6, "max_epochs": 3, "data_root": ["a", "b"], "save_ckpt_dir": None, "batch_size": 2}
    assert {name: from_control(fields()[name], raw) for name, raw in typed.items()} == wanted
    assert from_control(fields()["lr"], "fast") == "fast"
    copied = {
        "resume_ckpt": ' "C:\\my models\\sd.safetensors" ',
        "data_root": "'/a b'\n \"C:\\pics\" ",
        "save_ckpt_dir": '""',
    }
    plain = {"resume_ckpt": "C:\\my models\\sd.safetensors", "data_root": ["/a b", "C:\\pics"], "save_ckpt_dir": None}
    assert {name: from_control(fields()[name], raw) for name, raw in copied.items()} == plain, (
        "as file managers copy paths"
    )
    assert from_control(fields()["batch_size"], None) is None


@pytest.mark.parametrize("value", [None, True, False])
def test_a_switch_that_may_be_empty_keeps_each_of_its_three_states(value: object) -> None:
    spec = fields()["disable_textenc_2_training"]
    control = control_of(spec, value)
    assert control.value in [choice for _, choice in control.choices]
    assert from_control(spec, control.preprocess(control.postprocess(to_control(spec, value)))) is value
    words = shlex.split(command_of({spec.name: value}))
    assert parse(words[2:]).values == {spec.name: value}


def test_the_command_has_every_switch_in_its_form() -> None:
    values = {"amp": False, "no_save_ckpt": False, "weights_only": True, "lr": None, "project_name": "it's"}
    assert shlex.split(command_of(values))[2:] == [
        "--no-amp",
        "--no_save_ckpt=false",
        "--weights_only",
        "--lr",
        "none",
        "--project_name",
        "it's",
    ]


def test_messages_for_the_command_line_use_the_names_of_the_page(tmp_path: Path) -> None:
    options = ScanOptions(resolution=512)
    problems: list[Problem] = []
    for place in (tmp_path / "gone", Path(__file__)):
        with pytest.raises(ProblemsError) as caught:
            scan([place], options)
        problems += caught.value.problems
    problems += model_sizes(with_defaults({"resume_ckpt": "nobody/no-such-model"})).problems
    with pytest.raises(ProblemsError) as caught:
        settings_from({"batch_size": None})
    problems += caught.value.problems
    html = problems_html(problems)
    assert "--" not in html and "null" not in html
    assert "choose another folder with “Image folders”." in html
    assert "set “Model family” to sd2 or sdxl." in html
    assert "Batch size (batch_size): empty is not allowed" in html


@pytest.mark.parametrize("name", list(fields()))
def test_every_option_has_a_name_on_the_page(name: str) -> None:
    assert "--" not in log_html([f"Or add --{name}: it helps."])


def test_other_dashes_stay_as_they_are() -> None:
    assert on_page("--check lists them all.") == "Check in the Dataset tab lists them all."
    text = "a --dog, a--lr, --- and --no-amp"
    assert on_page(text) == text


def test_no_text_becomes_an_html_tag() -> None:
    evil = "<img src=x onerror=alert(1)>"
    snapshot = RunSnapshot(state="training", project=evil, detail=evil)
    told = task_html("test", TaskStatus("failed", evil), {"failed": ("wait", "No result")}, evil)
    for html in (status_html(snapshot), problems_html([Problem(evil, evil, evil)]), told):
        assert "<img" not in html


def shown_model(view: RunView) -> str:
    shown = view.snapshot()
    single = shown.single_file if shown.single_file and shown.single_file.exists() else None
    return model_html(shown, single)


def test_a_run_says_where_its_model_is(tmp_path: Path) -> None:
    run, single = tmp_path / "run", tmp_path / "<b>.safetensors"
    checkpoint = run / "ckpts" / "last-a"
    checkpoint.mkdir(parents=True)
    single.touch()
    view = RunView()
    view(PhaseChanged(7, "training"))
    view(CheckpointSaved(8, 1, "last", checkpoint, single, 9000, 0.5))
    told = shown_model(view)
    assert "Saved so far" in told and str(checkpoint) in told
    view(RunEnded(8, "done", "all epochs are done", 1.0, checkpoint, single))
    told = shown_model(view)
    assert "Your model" in told and "continues" not in told
    assert str(checkpoint) in told and f"{tmp_path}/&lt;b&gt;.safetensors" in told
    assert has_extractable(view.snapshot())
    single.unlink()
    assert "safetensors" not in shown_model(view)
    view(RunEnded(8, "stopped", "stopped and saved", 1.0, checkpoint, None))
    told = shown_model(view)
    assert NO_SINGLE_FILE in told and AFTER_THE_RUN not in told and "Resume continues this one" in told
    for name in (BASE_FILE, LORA_FILE):
        (checkpoint / name).touch()
    told = shown_model(view)
    assert "diffusers" in told and NO_SINGLE_FILE in told
    assert not has_extractable(view.snapshot())
    view(RunEnded(8, "done", "all epochs are done", 1.0, checkpoint, checkpoint / LORA_FILE))
    assert "LoRA for web UIs" in shown_model(view)


def test_the_log_shortens_paths_in_the_programs_folder() -> None:
    assert ">saved logs/run/ckpts, /elsewhere/b<" in log_html([f"saved {PROGRAM_DIR / 'logs/run/ckpts'}, /elsewhere/b"])


def test_the_epoch_is_shown_the_same_everywhere_from_start_to_end() -> None:
    def told(state: State, step: int) -> tuple[str, str]:
        epoch = -(-step // 6) if step else None
        shown = RunSnapshot(state=state, step=step, epoch=epoch, total=600, max_epochs=100)
        strip = re.search(r"epoch ([\d,]+ of [\d,]+)", status_html(shown))
        card = re.search(r"<dt>Epoch</dt><dd>([^<]+)</dd>", figures_html(shown))
        return strip.group(1) if strip else "", card.group(1) if card else ""

    assert told("sampling", 0) == ("", "–")
    assert told("training", 1) == told("training", 6) == ("1 of 100",) * 2
    assert told("training", 13) == told("paused", 18) == told("stopped", 15) == ("3 of 100",) * 2
    assert told("done", 600) == ("100 of 100",) * 2


def test_progress_within_a_phase_is_shown_in_the_strip_until_it_is_over() -> None:
    view = RunView()
    view(PhaseChanged(3, "sampling", "4 prompts"))
    assert "4 prompts" in status_html(view.snapshot())
    view(Progressed(3, "drawing samples 1 to 4 of 12: denoising step", 2, 30))
    assert ">drawing samples 1 to 4 of 12: denoising step 2 of 30<" in status_html(view.snapshot())
    view(PhaseChanged(3, "training"))
    view(Progressed(3, "validating", 1200, 4000))
    assert ">validating 1,200 of 4,000<" in status_html(view.snapshot())
    view(ValidationDone(3, {}))
    assert "validating" not in status_html(view.snapshot())


def test_a_requested_pause_is_shown_until_the_run_waits() -> None:
    view = RunView()
    service = TrainerService(view)
    view(PhaseChanged(3, "sampling", "4 prompts"))
    view(Progressed(3, "drawing 4 samples: denoising step", 2, 30))
    service.pause()
    assert ">pausing after these samples · drawing 4 samples: denoising step 2 of 30<" in status_html(view.snapshot())
    view(PhaseChanged(3, "training"))
    assert "pausing after these samples" in status_html(view.snapshot())
    view(PhaseChanged(3, "paused"))
    assert "pausing" not in status_html(view.snapshot())
    view(PhaseChanged(4, "training"))
    service.pause()
    assert "pausing after this step" in status_html(view.snapshot())
    service.resume()
    assert "pausing" not in status_html(view.snapshot())
    service.pause()
    service.stop()
    assert "pausing" not in status_html(service.snapshot())
    view(RunEnded(4, "stopped", "stopped", 1.0))
    service.close()


def test_a_preset_says_what_it_is_for_and_what_it_would_change(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))
    panel = OwnerPage(context).settings.presets
    title = next(iter(context.user.presets()))
    preset = {**defaults(), **form_of_preset(context.user.presets()[title], "", ())}
    told = panel.preview_html({**preset, "max_epochs": 7, "optimizer": "lion"}, title)
    assert "Anyone, on any computer" in told and "Loading it changes 2 settings:" in told
    assert "--max_epochs</span>: <b>7 → " in told and "lion → empty" in told
    assert "matches this preset" in panel.preview_html(preset, title)
    assert panel.preview_html(preset, None) == ""


def test_one_control_shows_both_ways_of_choosing_8_bit_adam() -> None:
    form = Form({"useadam8bit": True})
    form.add(["optimizer", "useadam8bit"])
    assert [control.value for control in form.inputs] == ["adamw8bit", False]
    shown = form.show({"useadam8bit": True, "optimizer": "adamw8bit"})
    assert (shown[form.controls["optimizer"]], shown[form.controls["useadam8bit"]]) == ("adamw8bit", False)
    contradiction = {"useadam8bit": True, "optimizer": "lion"}
    assert with_one_optimizer(contradiction) == contradiction, "the checks report it"


def test_after_a_restart_the_plan_of_the_form_that_was_kept_is_known_without_a_press(tmp_path: Path) -> None:
    user, images = UserFiles(tmp_path / "user"), make_images(tmp_path / "images", [(96, 96)] * 4)
    user.keep_draft({**defaults(), "data_root": [str(images)], "resolution": 64, "batch_size": 2, "max_epochs": 3})
    context = Context(user=user, begin={"logdir": str(tmp_path / "logs")})
    page = OwnerPage(context)
    page.dataset.check_kept()
    report = page.dataset.results()[page.dataset.report]
    assert "4 images can be used</strong>" in report and "2 steps per epoch, 6 in 3 epochs" in report
    shown = page.settings.memory.updates(REQUEST, {**defaults(), **context.form_values()}, 12)
    assert "6 steps in 3 epochs" in shown[page.settings.memory.forecast]
    assert "Learning rate over the run" in shown[page.settings.memory.forecast]
    images.rename(tmp_path / "elsewhere")
    page.dataset.check_kept()
    assert context.checked is None
