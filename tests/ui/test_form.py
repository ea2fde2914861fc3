"""Controls made from the schema, and back to settings."""

import math
import re
import shlex

from ed2.app.curve import Curve, Point
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from ed2.settings.checks import settings_from
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR
from ed2.ui.charts import bars_html, loss_html
from ed2.ui.form import control, defaults, shown, value_of
from ed2.ui.settings_tab import command_of
from ed2.ui.words import log_html, problems_html, status_html, without_paths


def test_every_default_comes_back_from_its_control_as_it_was() -> None:
    for name, spec in fields().items():
        default = defaults()[name]
        control(spec, shown(spec, default))
        assert value_of(spec, shown(spec, default)) == default, name
    settings_from(defaults())


def test_what_a_person_types_becomes_the_setting() -> None:
    typed = {"lr": "1e-6", "max_epochs": 3, "data_root": "a\n b \n", "save_ckpt_dir": "", "batch_size": 2.0}
    wanted = {"lr": 1e-6, "max_epochs": 3, "data_root": ["a", "b"], "save_ckpt_dir": None, "batch_size": 2}
    assert {name: value_of(fields()[name], raw) for name, raw in typed.items()} == wanted
    assert value_of(fields()["lr"], "fast") == "fast"
    assert value_of(fields()["batch_size"], None) is None


def test_the_command_has_every_switch_in_its_form() -> None:
    values = {"amp": False, "no_save_ckpt": False, "weights_only": True, "lr": None, "project_name": "it's"}
    assert shlex.split(command_of(values))[2:] == [
        "--no-amp", "--no_save_ckpt=false", "--weights_only", "--lr", "none", "--project_name", "it's",
    ]  # fmt: skip


def test_nothing_that_is_told_becomes_a_tag() -> None:
    evil = "<img src=x onerror=alert(1)>"
    snapshot = RunSnapshot(state="training", project=evil, detail=evil)
    for html in (status_html(snapshot), problems_html([Problem(evil, evil, evil)]), bars_html([(evil, 1)], evil)):
        assert "<img" not in html


def test_folders_are_left_out_and_names_stay() -> None:
    text = without_paths("saved /home/me/logs/run_1/ckpts/last.x, from C:\\Users\\me\\pictures\\a.png: 3/4 done")
    assert text == "saved last.x, from a.png: 3/4 done"


def test_the_log_names_what_lies_in_the_programs_folder_from_there() -> None:
    assert ">saved logs/run/ckpts, /elsewhere/b<" in log_html([f"saved {PROGRAM_DIR / 'logs/run/ckpts'}, /elsewhere/b"])


def test_a_curve_is_drawn_with_its_band_and_its_end_can_be_looked_at() -> None:
    points = [Point(step, 1 / (step + 1), 0.0, 2.0) for step in range(100)]
    whole, end = loss_html(points), loss_html(points, zoom=0.1)
    assert 'class="band"' in whole and "step 0" in whole
    assert "step 90" in end
    assert "No loss yet" in loss_html(())
    assert 'class="val"' in loss_html(points, [Point(50, 1.0, 1.0, 1.0)])
    loss_html([Point(1, 0.5, 0.5, 0.5)])


def test_a_hundred_thousand_losses_are_drawn_from_about_a_thousand_points() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(step, 1 + math.sin(step))
    html = loss_html(curve.points())
    line = re.search(r'class="line" points="([^"]+)"', html)
    assert line and 500 <= len(line.group(1).split()) <= 1024
    assert len(html) < 60_000
