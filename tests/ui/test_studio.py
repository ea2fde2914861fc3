"""Charts and samples of a long run in a real browser: hover, zoom, smoothing, the matrix and its lightbox."""

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ed2.app.reporters.jsonl import JsonlReporter
from ed2.events import CheckpointSaved, MetricsLogged, RunEnded, RunStarted, Sample, SamplesMade, ValidationDone
from tests.tiny import make_images
from tests.ui.conftest import Server, serving

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import overflow, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
STEPS, EVERY, PROMPTS, CFGS = 3000, 20, 4, (1.0, 4.0, 7.0)


def long_run(logs: Path) -> Path:
    """A run of 3,000 logged steps and 600 samples in its folder, made without training."""
    run = logs / "long_20260101-000000"
    run.mkdir(parents=True)
    draw, reporter = random.Random(1), JsonlReporter(run)
    reporter(RunStarted(0, "long", run, STEPS, 0, 10, 30, "the CPU", {}))
    for step in range(1, STEPS + 1):
        loss = 0.2 + 0.2 * math.exp(-step / 500) + draw.gauss(0, 0.02)
        reporter(MetricsLogged(step, {"loss/log_step": loss, "hyperparameter/lr unet": 1e-6, "performance/vram": 9.5}))
        if step % 100 == 0:
            turning = 0.3 if step > 1300 else 0.25 + abs(step - 1000) / 10_000
            reporter(ValidationDone(step, {"loss/val": turning, "loss/train_stabilized": 0.3 - step / 20_000}))
        if step % EVERY == 0:
            reporter(samples_of(run, step))
    (run / "settings.json").write_text(json.dumps({"data_root": [str(logs.parent / "images")]}))
    reporter(CheckpointSaved(STEPS, 9, "last", run / "ckpts" / "last-long-ep09-gs03000", None, 1, 1.0))
    reporter(RunEnded(STEPS, "done", "all epochs are done", 1.0))
    reporter.close()
    return run


def samples_of(run: Path, step: int) -> SamplesMade:
    folder, made = run / "samples" / f"gs{step:05d}", []
    folder.mkdir(parents=True)
    for index in range(PROMPTS):
        paths = tuple(folder / f"{index:02d}-cfg{cfg:g}.png" for cfg in CFGS)
        for place, path in enumerate(paths):
            Image.new("RGB", (32, 24), (step * 255 // STEPS, 60 * index, 90 * place)).save(path)
        trained = "0/00.png" if index == 1 else ""
        made.append(Sample(index, paths[1], f"prompt <b>{index}</b>", "", 5, CFGS, (32, 24), paths, trained))
    return SamplesMade(step, tuple(made), 1.0)


@pytest.fixture(scope="module")
def long_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    long_run(folder / "logs")
    images = make_images(folder / "images", [(64, 64)])
    with serving(folder, {"data_root": [str(images)], "logdir": str(folder / "logs")}) as server:
        yield server


@pytest.fixture
def page(open_page, long_server: Server):
    page = open_page(url=long_server.url)
    state(page, "done")
    tab(page, "Train")
    expect(page.locator("#loss-chart .line").first).to_be_attached()
    return page


def main_chart(page):
    return page.locator("#loss-chart .ed-panel[data-panel=Loss]")


def steps_shown(page) -> str:
    return str(main_chart(page).locator("svg").get_attribute("aria-label"))


def test_the_value_under_the_pointer_is_shown_in_every_chart(page) -> None:
    box = main_chart(page).locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    expect(main_chart(page).locator(".at")).to_have_text(re.compile(r"step 1,[45]\d\d"))
    expect(page.locator("#loss-chart .cursor")).to_have_count(3)
    expect(main_chart(page).locator("[data-line$='loss/val'] b")).to_have_text("0.3")
    expect(main_chart(page).locator("[data-line$='loss/log_step']")).to_contain_text(
        re.compile(r"\(0\.\d+ to 0\.\d+\)")
    )
    page.mouse.move(5, 5)
    expect(page.locator("#loss-chart .cursor")).to_have_count(0)


def test_dragging_zooms_every_chart_and_a_double_click_resets(page) -> None:
    svg = main_chart(page).locator("svg")
    box = svg.bounding_box()
    whole = steps_shown(page)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 90, steps=4)
    expect(page.locator("#loss-chart .drag").first).to_be_attached()
    page.mouse.up()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    for panel in ("Loss", "Learning rate"):
        first = page.locator(f"#loss-chart [data-panel='{panel}'] .tick[text-anchor=start]")
        expect(first).to_have_text(re.compile(r"step 1,[45]\d\d"))
    svg.dblclick(position={"x": 300, "y": 60})
    expect(svg).to_have_attribute("aria-label", whole)


def test_the_smoothed_line_begins_at_the_first_value_and_follows_the_slider(page) -> None:
    chart = main_chart(page)
    expect(chart.locator(".raw")).to_have_count(1)
    raw, line = (chart.locator(f".{name}.look-0").get_attribute("points").split() for name in ("raw", "line"))
    assert raw[0] == line[0], "an average that is not corrected begins elsewhere"
    assert raw[-1] != line[-1]
    page.get_by_label("Smoothing").fill("0")
    expect(chart.locator(".raw")).to_have_count(0)
    assert chart.locator(".line.look-0").get_attribute("points").split()[-1] == raw[-1]


def test_the_legend_says_what_is_smoothed_and_what_the_marks_are(page) -> None:
    legend, panels = main_chart(page).locator(".ed-chart-legend"), page.locator("#loss-chart .ed-panel")
    expect(legend).to_contain_text("training, smoothed 0.")
    expect(legend).to_contain_text("▲ samples▼ checkpoints")
    expect(panels.filter(has_text="▲")).to_have_count(1)
    page.locator("#loss-chart .ed-smooth input").fill("0")
    expect(legend).not_to_contain_text("smoothed")


def test_a_logarithmic_scale_and_lines_that_are_hidden(page) -> None:
    chart = main_chart(page)
    before = chart.locator(".line.look-1").get_attribute("points")
    page.get_by_label("Log scale").check()
    expect(chart.locator(".line.look-1")).not_to_have_attribute("points", before)
    button = chart.get_by_role("button", name=re.compile("^validation"))
    button.click()
    expect(chart.locator(".line.look-1")).to_have_count(0)
    expect(button).to_have_attribute("aria-pressed", "false")
    assert chart.locator(".mark.samples").count() > 10
    expect(chart.locator(".mark.saves")).to_have_count(1)


def test_a_thousand_points_at_most_and_few_cells_are_drawn(page) -> None:
    assert len(main_chart(page).locator(".raw").get_attribute("points").split()) <= 1000
    columns = page.locator("#samples-matrix .ed-column")
    expect(columns).to_have_count(STEPS // EVERY)
    assert page.locator("#samples-matrix .ed-cell").count() < PROMPTS * len(CFGS) * 60
    scrolled = page.locator(".ed-matrix-scroll").evaluate("s => s.scrollWidth - s.clientWidth - s.scrollLeft")
    assert scrolled < 2, "the newest is at the right, and in view"
    page.locator(".ed-matrix-scroll").evaluate("s => { s.scrollLeft = 0; }")
    expect(page.get_by_role("button", name=f"step {EVERY}, CFG 1: prompt <b>0</b>")).to_be_visible()


def test_the_adviser_says_since_when_the_run_memorises_and_names_the_best_validation(page) -> None:
    adviser = page.get_by_role("region", name="Adviser")
    expect(adviser).to_contain_text("Began to memorise at step 1,000")
    expect(adviser).to_contain_text("Lowest validation loss: 0.2500 at step 1,000.")
    expect(adviser).to_be_visible()
    expect(adviser.get_by_role("button", name="Validate the next run")).to_have_count(0)


def test_one_cfg_can_be_chosen(page) -> None:
    page.get_by_role("button", name="CFG 4", exact=True).click()
    expect(page.locator(".ed-row-name")).to_have_count(PROMPTS)
    page.get_by_role("button", name="All CFG").click()
    expect(page.locator(".ed-row-name")).to_have_count(PROMPTS * len(CFGS))


def test_the_lightbox_compares_side_by_side_and_by_a_slider_and_downloads(page) -> None:
    page.get_by_role("button", name="step 3,000, CFG 4: prompt <b>1</b>").click()
    box = page.get_by_role("dialog", name="Sample")
    expect(box).to_contain_text("step 3,000 · CFG 4")
    page.keyboard.press("ArrowDown")
    expect(box).to_contain_text("step 3,000 · CFG 7")
    page.keyboard.press("ArrowLeft")
    expect(box).to_contain_text("step 2,980 · CFG 7")
    page.keyboard.press("c")
    expect(box.locator("figcaption")).to_have_text(["step 20, CFG 7", "step 2,980, CFG 7"])
    page.keyboard.press("c")
    stage = box.locator(".ed-light-stage")
    expect(stage).to_have_attribute("data-mode", "slider")
    box.get_by_label("Before and after", exact=True).fill("20")
    assert stage.evaluate("stage => stage.style.getPropertyValue('--share')") == "20%"
    page.keyboard.press("+")
    assert float(stage.evaluate("stage => stage.style.getPropertyValue('--zoom')")) == 1.5
    for image in stage.locator("img").all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") == 32
    with page.expect_download() as download:
        box.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "step-2-980-prompt2-cfg7.png"
    with Image.open(download.value.path()) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (2980 * 255 // STEPS, 60, 180))
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def test_the_training_image_stands_beside_the_sample_of_its_caption(page) -> None:
    page.get_by_role("button", name="step 3,000, CFG 4: prompt <b>1</b>").click()
    box = page.get_by_role("dialog", name="Sample")
    offer = box.get_by_role("button", name="Training image")
    offer.click()
    expect(offer).to_have_attribute("aria-pressed", "true")
    expect(box.locator("figcaption")).to_have_text(["training image 00.png", "step 3,000, CFG 4"])
    for image in box.locator(".ed-light-stage img").all():
        expect(image).to_have_js_property("complete", True)
    assert box.locator(".ed-light-stage img").first.evaluate("image => image.naturalWidth") == 64
    page.keyboard.press("t")
    expect(box.locator("figcaption")).to_have_text(["step 20, CFG 4", "step 3,000, CFG 4"])
    for _ in CFGS:
        page.keyboard.press("ArrowDown")
    expect(offer).to_be_hidden()


def use(page, sample: str) -> None:
    page.get_by_role("button", name=sample).click()
    page.get_by_role("dialog", name="Sample").get_by_role("button", name="Use this step").click()


def test_the_checkpoint_nearest_to_a_sample_is_protected_compared_and_continued(page, long_server: Server) -> None:
    ckpts = long_server.logs / "long_20260101-000000" / "ckpts"
    use(page, "step 2,980, CFG 4: prompt <b>1</b>")
    panel = page.locator("#use-step")
    expect(panel).to_contain_text("This run has no checkpoint.")
    expect(page.locator("#use-export-button")).to_be_hidden()
    for name in ("long-ep04-gs01500", "last-long-ep09-gs03000"):
        (ckpts / name / "training_state").mkdir(parents=True)
        (ckpts / name / "model_index.json").write_text("{}")
    use(page, "step 2,980, CFG 4: prompt <b>1</b>")
    expect(panel).to_contain_text("last-long-ep09-gs03000")
    expect(panel).to_contain_text("step 3,000, 20 steps after the sample (step 2,980)")
    expect(panel).to_be_in_viewport()
    assert [path.parent.name for path in ckpts.glob("*/KEEP")] == ["last-long-ep09-gs03000"]
    page.locator("#use-export-button").click()
    expect(page.locator("#use-result [data-state=failed]")).to_contain_text("Single file of last-long-ep09-gs03000")
    page.locator("#use-compare-button").click()
    expect(page.locator("[data-pick=long_20260101-000000]")).to_be_checked()
    tab(page, "Train")
    page.locator("#use-continue-button").click()
    expect(page.get_by_text("Press Train to continue from step 3,000")).to_be_visible()
    expect(page.locator("#resume_ckpt textarea, #resume_ckpt input").first).to_have_value(
        str(ckpts / "last-long-ep09-gs03000")
    )


def test_a_phone_shows_charts_and_samples_without_scrolling_sideways(open_page, long_server: Server) -> None:
    phone = open_page(390, 844, url=long_server.url, has_touch=True, is_mobile=True)
    state(phone, "done")
    tab(phone, "Train")
    expect(phone.locator("#samples-matrix .ed-cell img").first).to_be_attached()
    assert overflow(phone) <= 0
    board = phone.locator("#samples-matrix .ed-matrix-scroll")
    name, image = board.locator(".ed-row-text").first, board.locator("[data-column]").last.locator("img").first
    image.scroll_into_view_if_needed()
    whole, own = (one.bounding_box() for one in (board, name))
    assert own["width"] > 0.9 * whole["width"], "the name of a row is not squeezed beside its images"
    seen = [box["x"] >= whole["x"] for box in (c.bounding_box() for c in board.locator("[data-column]").all()[-3:])]
    assert seen == [True] * 3, "the newest three columns are seen"
    phone.locator("#samples-matrix .ed-cell").last.tap()
    expect(phone.get_by_role("dialog", name="Sample")).to_be_visible()
    assert overflow(phone) <= 0
