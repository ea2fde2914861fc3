"""A run as a person sees it: from opening the page to its end, stopped, in two browsers, after a restart."""

import re
import shutil
from pathlib import Path

import pytest

from ed2.__main__ import main
from ed2.app import local_models
from ed2.models.files import source
from ed2.ui.train_tab import NO_SINGLE_FILE
from tests.elsewhere import trained_elsewhere
from tests.tiny import make_images
from tests.ui.conftest import Server, serving

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Error, expect

from tests.ui.actions import answered_late, fill, overflow, reload, state, tab, wait_for_draft
from tests.ui.tunnel import write_program

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]
STEPS = 12
AT_THE_END_OF_THE_LOG = "Math.abs(document.querySelector('#log-tail .html-container').scrollTop) <= 2"
"""It is filled from its end on, and counts up to a pixel more or less."""


def run_dir_of(server: Server) -> Path:
    return Path(str(server.context.service.snapshot().run_dir))


def test_a_run_from_opening_the_page_to_a_resumable_entry(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    expect(page.locator("#dataset-report")).to_contain_text("4 images can be used")
    tab(page, "Settings")
    fill(page, "project_name", "creature")
    fill(page, "max_epochs", 4)
    expect(page.locator("#forecast")).to_contain_text(f"{STEPS} steps in 4 epochs")
    expect(page.locator("#forecast")).not_to_contain_text("at the speed")
    page.locator("#train-button").click()
    expect(page.locator("#tab-train")).to_be_visible()
    state(page, "preparing", "sampling", "training")
    expect(page.locator("#train-button")).to_be_disabled()
    reload(page)
    state(page, "preparing", "sampling", "training", "done")
    state(page, "done")
    expect(page.locator("#status")).to_have_attribute("data-step", str(STEPS))
    expect(page.locator("#status")).to_have_attribute("data-saving", "false")
    tab(page, "Train")
    expect(page.locator("#memory-card")).to_contain_text("System RAM")
    expect(page.locator("#log-tail")).to_contain_text("all epochs are done")
    expect(page.locator("#your-model")).to_contain_text(f"last-creature-ep03-gs000{STEPS}")
    the_whole_loss_and_its_end_are_shown(page)
    a_prompt_is_followed_in_the_lightbox(page)
    tab(page, "Resume")
    card = page.locator("#runs-list li").first
    expect(card).to_contain_text("creature_")
    expect(card).to_contain_text(re.compile(f"done\\s+step {STEPS} of {STEPS}"))
    expect(card).to_contain_text("all epochs are done")
    the_time_is_told_of_runs_of_a_kind_that_was_measured(page)


def the_whole_loss_and_its_end_are_shown(page) -> None:
    drawn = page.locator("#loss-chart svg").first
    expect(drawn.locator(".line")).to_have_count(2)
    expect(drawn).to_have_attribute("aria-label", re.compile(f"^Loss from step 1 to {STEPS}, now"))
    page.get_by_label("Last half").check()
    expect(drawn).to_have_attribute("aria-label", re.compile(f"^Loss from step 7 to {STEPS}, now"))
    page.get_by_label("Whole run").check()
    expect(drawn).to_have_attribute("aria-label", re.compile("^Loss from step 1 "))


def a_prompt_is_followed_in_the_lightbox(page) -> None:
    page.get_by_role("button", name=f"step {STEPS}, CFG 4: a cat").click()
    box = page.get_by_role("dialog", name="Sample")
    expect(box).to_contain_text(f"step {STEPS} · CFG 4")
    page.keyboard.press("ArrowLeft")
    expect(box).to_contain_text("before training · CFG 4")
    expect(box.locator(".ed-light-stage img")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def the_time_is_told_of_runs_of_a_kind_that_was_measured(page) -> None:
    tab(page, "Settings")
    fill(page, "max_epochs", 5)
    expect(page.locator("#forecast")).to_contain_text("at the speed of the last run like it")
    fill(page, "batch_size", 1)
    expect(page.locator("#forecast")).not_to_contain_text("at the speed")
    fill(page, "batch_size", 2)
    expect(page.locator("#forecast")).to_contain_text("at the speed")


def test_watching_costs_short_answers_and_each_sample_once(open_page, server: Server) -> None:
    page = open_page()
    state(page, "done")
    tab(page, "Train")
    images = page.locator("#samples-gallery img")
    expect(images).to_have_count(6)  # before training and at the end, at three CFG values
    for image in images.all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
    answers: list[bytes] = []
    page.on("response", lambda r: answers.append(r.body()) if r.request.method == "POST" else None)
    for _ in range(5):
        page.wait_for_event("response", lambda answer: answer.request.method == "POST")
    addresses = [url for url in page.watched.requests if "/images-" in url]
    assert len(addresses) == len(set(addresses))
    assert len([url for url in addresses if server.context.samples.route in url]) == 6
    assert all(url.endswith(".webp") for url in addresses)
    assert len(answers) >= 3
    assert max(map(len, answers)) < 4000
    assert not [answer for answer in answers if b"<svg" in answer or b"data-news" in answer or b"ed-log" in answer]


def test_the_link_shows_the_run_to_whoever_has_the_password(
    open_page, browser, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio import networking, tunneling

    monkeypatch.setattr(tunneling, "BINARY_PATH", str(write_program(tmp_path)))
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:1")
    page = open_page()
    state(page, "done")
    tab(page, "Train")
    page.locator("#share-button").click()
    answer = page.locator("#share-answer")
    expect(answer.get_by_role("img", name="QR code of the link").locator("svg")).to_be_visible()
    link = str(answer.get_by_role("link").get_attribute("href"))
    assert link.startswith("http://shared.localhost:")
    expect(answer).to_contain_text(server.context.sharing.password)
    phone = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True).new_page()
    phone.goto(link)
    phone.get_by_label("username").fill("viewer")
    phone.get_by_label("password").fill(server.context.sharing.password)
    phone.get_by_role("button", name="Login").click()
    state(phone, "done")
    expect(phone.locator("#samples-gallery img")).to_have_count(6)
    expect(phone.locator("#samples-gallery img").first).to_have_js_property("complete", True)
    assert overflow(phone) <= 0
    assert str(server.folder) not in phone.content()
    assert phone.locator("#train-button, #stop-button, #share-button, textarea").count() == 0
    page.locator("#stop-sharing-button").click()
    expect(page.locator("#stop-sharing-button")).to_be_hidden()
    expect(answer.get_by_role("link")).to_have_count(0)
    with pytest.raises(Error):
        phone.goto(link, timeout=20_000)
    phone.context.close()


def test_a_program_that_stopped_answering_is_reported(open_page, server: Server) -> None:
    page = open_page()
    state(page, "done")
    page.wait_for_function("ed.store.answeredAt")
    before = page.evaluate("ed.store.answeredAt")
    page.wait_for_function("before => ed.store.answeredAt > before", arg=before)  # each answer counts
    expect(page.locator("#strip")).not_to_have_class(re.compile("ed-gone"))
    page.evaluate("Object.defineProperty(ed.store, 'answeredAt', {get: () => 1, set: () => {}})")  # none comes any more
    expect(page.locator("#strip")).to_have_class(re.compile("ed-gone"))
    for button in ("#stop-button", "#train-button"):
        assert page.evaluate("id => getComputedStyle(document.querySelector(id)).pointerEvents", button) == "none"
    assert page.locator("#strip-buttons").evaluate("row => row.inert")
    assert "does not answer" in page.evaluate("getComputedStyle(document.querySelector('#strip'), '::before').content")


def test_tensorboard_opens_on_this_computer(open_page, server: Server) -> None:
    page = open_page()
    state(page, "done")
    tab(page, "Train")
    with page.expect_popup(timeout=60_000) as opened:
        page.locator("#tensorboard-button").click()
    expect(opened.value).to_have_title(re.compile("^Starting TensorBoard"))  # at the press, when a browser allows it
    opened.value.wait_for_url(re.compile(r"^http://127\.0\.0\.1:\d+/"), timeout=60_000)
    opened.value.close()


def test_two_browsers_see_one_run_and_can_stop_it(open_page, server: Server) -> None:
    runs = len(list(server.logs.glob("*")))
    server.begin_with(max_epochs=3000)
    page, phone = open_page(), open_page(390, 844, has_touch=True, is_mobile=True)
    state(page, "done")
    page.locator("#train-button").click()
    state(phone, "preparing", "sampling", "training")
    expect(phone.locator("#train-button")).to_be_disabled()
    state(page, "training")
    page.locator("#pause-button").click()
    state(phone, "paused")
    expect(phone.locator("#pause-button")).to_have_text("Continue")
    tab(phone, "Resume")
    expect(phone.locator("#runs-list li").first).to_have_attribute("data-state", "paused")
    expect(phone.locator("#continue-button")).to_be_disabled()
    expect(phone.locator("#resume-note")).to_contain_text("A run is in progress")
    expect(phone.locator("#test-resume-button")).to_be_disabled()
    page.locator("#save-now-button").click()
    expect(page.locator("#log-tail")).to_contain_text(re.compile("saved [a-z]+-ep"), timeout=90_000)
    page.wait_for_function(AT_THE_END_OF_THE_LOG)
    phone.locator("#pause-button").click()
    state(page, "training")
    phone.locator("#stop-button").click()
    state(page, "stopped")
    state(phone, "stopped")
    expect(page.locator("#status")).to_have_attribute("data-saving", "false")
    expect(phone.locator("#runs-list li").first).to_have_attribute("data-state", "stopped")
    expect(phone.locator("#continue-button")).to_be_enabled()
    assert len(list(server.logs.glob("*"))) == runs + 1
    assert any(path.name.startswith("interrupted-") for path in (run_dir_of(server) / "ckpts").iterdir())


def test_a_stopped_run_is_resumed_in_the_train_tab_or_used_as_base_model(open_page, server: Server) -> None:
    page = open_page()
    state(page, "stopped")
    tab(page, "Resume")
    expect(page.locator("#runs-list li").first).to_have_attribute("data-state", "stopped")
    before = int(page.locator("#status").get_attribute("data-step") or 0)
    with trained_elsewhere(run_dir_of(server)) as pid:
        server.context.service.check_other_programs()
        expect(page.locator("#status")).to_contain_text(f"the run is being trained in another program (process {pid})")
        expect(page.locator("#runs-list li").first).to_contain_text(f"running in another program (process {pid})")
        expect(page.locator("#continue-button")).to_be_disabled()
        expect(page.get_by_text(f"This run is being trained in another program (process {pid})").first).to_be_visible()
    server.context.service.check_other_programs()
    state(page, "stopped")
    expect(page.locator("#continue-button")).to_be_enabled()
    tab(page, "Train")
    page.locator("#resume-model-button").click()
    state(page, "training")
    expect(page.locator("#tab-train")).to_be_visible()
    page.locator("#stop-button").click()
    state(page, "stopped")
    assert int(page.locator("#status").get_attribute("data-step") or 0) >= before
    assert run_dir_of(server).parent == server.logs
    tab(page, "Resume")
    finished = page.locator("#runs-list [data-run^=creature_]")
    with answered_late(page, "refresh-button"):
        finished.get_by_role("button").click()
        expect(finished).to_have_class(re.compile("ed-chosen"))
    expect(finished).to_have_class(re.compile("ed-chosen"))
    expect(page.locator("#run-choice input")).to_have_value(re.compile("^creature_"))
    page.locator("#use-as-base-button").click()
    expect(page.locator("#tab-settings")).to_be_visible()
    base = page.locator("#resume_ckpt input, #resume_ckpt textarea").first
    expect(base).to_have_value(re.compile(f"creature_.*/ckpts/last-creature-ep03-gs000{STEPS}$"))
    wait_for_draft(server, "weights_only", True)


def test_the_single_file_of_a_finished_run_is_exported_at_a_press(open_page, server: Server) -> None:
    files, service = server.folder / "files", server.context.service
    service.start({**server.values, "project_name": "exported", "max_epochs": 1, "save_ckpt_dir": str(files)})
    assert service.wait(300)
    page, other = open_page(width=390, height=844), open_page()
    for one in (page, other):
        state(one, "done")
        tab(one, "Train")
        expect(one.locator("#your-model")).to_contain_text(NO_SINGLE_FILE)
    page.locator("#export-model-button").click()
    expect(page.locator("#model-result")).to_contain_text("Done Single file of last-exported")
    (file,) = files.glob("*.safetensors")
    for one in (page, other):
        expect(one.locator("#your-model")).to_contain_text(str(file))
        expect(one.locator("#your-model")).not_to_contain_text(NO_SINGLE_FILE)
        expect(one.locator("#export-model-button")).to_be_hidden()
        expect(one.locator("#model-folder-button")).to_be_enabled()
    assert overflow(page) <= 0


def test_stopping_without_saving_is_offered_at_the_second_press(open_page, server: Server) -> None:
    many = make_images(server.folder / "many", [(64, 64)] * 60)
    slow = {"data_root": [str(many)], "batch_size": 1, "grad_accum": 60, "max_epochs": 9}  # a step takes seconds
    server.begin_with(**slow, sample_prompts=str(server.folder / "none.txt"))
    page = open_page()
    state(page, "stopped", "done")
    expect(page.locator("#leave-button")).to_have_count(0)
    page.locator("#train-button").click()
    state(page, "training")
    page.locator("#stop-button").click()
    expect(page.locator("#stop-button")).to_have_text("Stopping")
    page.locator("#stop-button").click()
    page.locator("#leave-button").click()
    state(page, "stopped")
    expect(page.locator("#leave-button")).to_have_count(0)
    expect(page.locator("#train-button")).to_be_enabled()
    assert not list((run_dir_of(server) / "ckpts").iterdir())


def test_after_a_restart_of_the_program_its_last_run_is_shown(open_page, server: Server, tmp_path: Path) -> None:
    finished = next(server.logs.glob("creature_*"))
    done, killed = tmp_path / "done", tmp_path / "killed"
    shutil.copytree(finished, done / finished.name)
    shutil.copytree(finished, killed / finished.name)
    events = killed / finished.name / "events.jsonl"
    lines = events.read_text().split("\n")
    first = next(place for place, line in enumerate(lines) if '"MetricsLogged"' in line)
    events.write_text("\n".join(lines[: first + 3]))
    with serving(tmp_path, {**server.values, "logdir": str(done)}) as again:
        page = open_page(url=again.url)
        state(page, "done")
        expect(page.locator("#status")).to_have_attribute("data-step", str(STEPS))
        tab(page, "Train")
        expect(page.locator("#samples-gallery img")).to_have_count(6)
        one_more_epoch_is_trained(page)
        page.close()
    with serving(tmp_path, {**server.values, "logdir": str(killed)}) as again:
        page = open_page(url=again.url)
        state(page, "stopped")
        expect(page.locator("#status")).to_contain_text(f"resume it from step {STEPS} in the Resume tab")
        tab(page, "Resume")
        expect(page.locator("#runs-list li").first).to_have_attribute("data-state", "interrupted")
        page.close()


def one_more_epoch_is_trained(page) -> None:
    tab(page, "Resume")
    expect(page.locator("#resume-note")).to_contain_text("All epochs of this run are done")
    expect(page.locator("#continue-epochs input")).to_have_value("6")
    fill(page, "continue-epochs", 5)
    page.locator("#continue-button").click()
    expect(page.locator("#tab-train")).to_be_visible()
    expect(page.locator("#status")).to_have_attribute("data-total", str(STEPS // 4 * 5))
    state(page, "done")
    expect(page.locator("#status")).to_have_attribute("data-step", str(STEPS // 4 * 5))
    expect(page.locator("#log-tail")).to_contain_text(f"at step {STEPS}")


def test_a_ckpt_as_base_model_is_converted_by_the_first_start_and_used_again_by_the_next(
    open_page, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(str(server.values["resume_ckpt"]))
    shutil.copytree(folder, tmp_path / "configs" / "sd1", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(source, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(local_models, "MODELS_DIR", tmp_path / "user" / "models")
    assert main(["convert", str(folder), str(tmp_path / "old.ckpt")]) == 0
    server.begin_with(max_epochs=1)
    page = open_page()
    tab(page, "Settings")
    fill(page, "resume_ckpt", tmp_path / "old.ckpt")
    expect(page.locator("#train-button")).to_be_enabled()
    for said in ("old.ckpt was converted to", "was converted from old.ckpt before"):
        page.locator("#train-button").click()
        expect(page.locator("#log-tail")).to_contain_text(said)
        state(page, "done")
        expect(page.locator("#log-tail")).to_contain_text("all epochs are done")
    (written,) = (tmp_path / "user" / "models").iterdir()
    assert written.suffix == ".safetensors"
    server.begin_with()


RECORD_NOTIFICATIONS = """window.told = [];
window.Notification = class { constructor(text, options) { window.told.push([text, options.body]); } close() {} };
window.Notification.permission = 'default';
window.asked = 0;
window.Notification.requestPermission = () => { window.asked += 1; window.Notification.permission = 'granted'; };"""


def test_the_tab_shows_the_progress_and_a_notification_the_end(open_page, server: Server) -> None:
    server.begin_with(max_epochs=4)
    page = open_page()
    page.evaluate(RECORD_NOTIFICATIONS)
    expect(page).to_have_title("EveryDream trainer")
    page.locator("#train-button").click()
    expect(page).to_have_title(re.compile(r"^\d+ % · EveryDream trainer"))
    assert page.locator("link[rel~=icon]").get_attribute("href").startswith("data:image/png")
    state(page, "done")
    expect(page).to_have_title("Training is done · EveryDream trainer")
    assert [text for text, _ in page.evaluate("told")] == ["Training is done"]
    page.locator("#train-button").click()
    state(page, "training", "sampling")
    state(page, "done")
    assert page.evaluate("[asked, told.length]") == [1, 2]
