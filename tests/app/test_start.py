"""What the first screen says, and that the demo's settings reach no other run."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ed2.app.checks.check import check_dataset
from ed2.app.images.scanning import scan_dataset
from ed2.app.page.folders import Roots
from ed2.app.page.start import DEMO, DemoSettings, MissingChoice, StartStep, missing_things, start_state
from ed2.app.user_files import UserFiles
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.ui.form import defaults
from ed2.ui.start_screen import steps_html
from tests.runs import Values


def form(**values: object) -> Values:
    return {**defaults(), "data_root": [str(PROGRAM_DIR / "input")], **values}


def missing(values: Values) -> tuple[MissingChoice, ...]:
    return missing_things(values, Roots())


def test_what_is_missing_is_named_with_its_tab(images: Path, sd1: Path) -> None:
    both = missing(form())
    assert [(thing.name, thing.tab, thing.setting) for thing in both] == [
        ("images", "Dataset", "data_root"),
        ("a base model", "Settings", "resume_ckpt"),
    ]
    gone, nowhere = "/gone", "/nowhere"
    wrong = missing(form(data_root=[str(images), gone], resume_ckpt=nowhere))
    assert [thing.is_chosen for thing in (*both, *wrong)] == [False, False, True, True]
    texts = [thing.what for thing in wrong]
    assert texts == [f"There is no folder {gone}.", f"{nowhere} is not on this computer."]
    assert not missing(form(data_root=[str(images)], resume_ckpt=str(sd1)))
    assert not missing(form(data_root=[str(images)], resume_ckpt="findlast"))


def test_what_the_page_may_not_open_is_not_looked_at(tmp_path: Path, sd1: Path) -> None:
    values = form(data_root=[str(tmp_path / "gone")], resume_ckpt=str(sd1.parent / "gone"))
    roots = Roots((tmp_path / "allowed",))
    assert not missing_things(values, roots)
    here = form(data_root=[str(tmp_path)], resume_ckpt=str(sd1))
    assert start_state(here, (), None, None, roots).steps[1].known == "Chosen."


def test_each_step_says_what_is_known(images: Path, sd1: Path, tmp_path: Path) -> None:
    values = form(data_root=[str(images)], resume_ckpt=str(sd1), resolution=64, max_epochs=10)
    settings = with_defaults(values)
    unchecked = start_state(values, (), None, 12)
    assert "Press Check" in unchecked.steps[0].known and "Check" in unchecked.steps[3].known
    checked = check_dataset(settings, scan_dataset(settings))
    found = start_state(values, (), checked, 12)
    known = {step.title: (step.known, step.is_done) for step in found.steps}
    assert known["Images"] == ("8 images.", True)
    assert known["Base model"][0].startswith("sd1: SD 1.x, epsilon, ")
    assert known["GPU"] == ("Planned for a card with 12 GB.", True)
    go, is_ready = known["Go"]
    assert go.startswith("8 images, SD 1.x, 12 GB: 50 steps, ") and is_ready
    assert go.endswith(" of 11.7 GB, time known after the first steps.")
    assert found.changes is not None and found.changes["batch_size"] == 1


def test_several_gpus_are_offered_until_a_run_uses_them(
    monkeypatch: pytest.MonkeyPatch, images: Path, sd1: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    values = form(data_root=[str(images)], resume_ckpt=str(sd1))
    step = gpu_step(values)
    assert (step.known, step.offer, step.offered) == (
        "A GPU, 24 GB, and 1 other GPU.",
        "Train on 2 GPUs",
        "num_processes",
    )
    html = steps_html(start_state(values, (), None, None))
    assert 'data-setting="num_processes" data-tab="settings">Train on 2 GPUs</button>' in html
    assert not gpu_step({**values, "num_processes": 2}).offer
    assert gpu_step({**values, "device": "cuda:1"}).known == "A GPU, 24 GB."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert not gpu_step(values).offer


def gpu_step(values: Values) -> StartStep:
    return start_state(values, (), None, None).steps[2]


def two_gpus() -> SimpleNamespace:
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=24 * 2**30, free=23 * 2**30),
        nvmlDeviceGetName=lambda _: "A GPU",
    )


def test_images_without_captions_are_counted(tmp_path: Path, images: Path) -> None:
    for place, name in enumerate(["_1.png", "_2.png", "a dog_3.png"]):
        source = sorted(images.glob("*.png"))[place]
        (tmp_path / name).write_bytes(source.read_bytes())
    values = form(data_root=[str(tmp_path)], resolution=64)
    settings = with_defaults(values)
    checked = check_dataset(settings, scan_dataset(settings))
    state = start_state(values, missing(values), checked, None)
    assert state.steps[0].known == "3 images, 2 have no caption, 1 takes its caption from its name."
    assert state.steps[3].known == "1 thing missing." and not state.steps[3].is_done


def test_a_form_that_is_not_valid_is_no_error(images: Path, sd1: Path) -> None:
    values = form(data_root=[str(images)], resume_ckpt=str(sd1), batch_size=0)
    state = start_state(values, (), None, None)
    assert "not valid" in state.steps[3].known and state.suggestions is None


@pytest.fixture
def demo(tmp_path: Path) -> DemoSettings:
    return DemoSettings(DEMO, UserFiles(tmp_path / "user"))


def test_the_demos_settings_are_asked_about_once_it_was_trained_until_there_is_an_answer(
    demo: DemoSettings, images: Path, sd1: Path
) -> None:
    other = form(data_root=[str(images)])
    assert not demo.asks_about(other)
    demo.trained()
    assert demo.asks_about(other) and demo.asks_about(form(resume_ckpt=str(sd1)))
    assert not demo.asks_about(form()) and not demo.asks_about({**form(), **demo.named})
    demo.answered(is_wanted=False)
    demo.trained()
    assert not demo.asks_about(other)
    assert {"data_root", "resume_ckpt", "project_name"}.isdisjoint(demo.tuned) and demo.tuned["resolution"] == 64


def test_a_form_of_the_demo_with_other_images_or_base_is_a_leak(demo: DemoSettings, images: Path, sd1: Path) -> None:
    of_demo = {**form(), **demo.named}
    assert not demo.leaked_into(of_demo)
    assert demo.leaked_into({**of_demo, "data_root": [str(images)]})
    assert demo.leaked_into({**of_demo, "resume_ckpt": str(sd1)})
    assert not demo.leaked_into({**of_demo, "data_root": [str(images)], "resolution": 512})
    demo.answered(is_wanted=True)
    assert not demo.leaked_into({**of_demo, "data_root": [str(images)]})
