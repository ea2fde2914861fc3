"""The data of charts and sample matrix, whole and as what a page does not hold yet."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ed2.app.page.folders import Roots
from ed2.app.runs.facts import image_of
from ed2.app.snapshot import Curve, RunSnapshot, ShownSample, ThinnedCurve
from ed2.app.user_files import UserFiles
from ed2.events import Sample
from ed2.ui.charts import ChartRun, chart_news, charts_json
from ed2.ui.context import Context
from ed2.ui.image_copies import ImageCopies
from ed2.ui.live import Held, LiveData
from ed2.ui.matrix import Column, Matrix, columns_of
from tests.tiny import make_images


def curve_of(count: int) -> ThinnedCurve:
    curve = Curve()
    for step in range(1, count + 1):
        curve.add(step, float(step))
    return curve.thinned()


def sample(run: Path, step: int, index: int, text: str, cfgs: tuple[float, ...] = (1.0, 4.0)) -> ShownSample:
    folder = run / "samples" / f"gs{step:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{index}-{cfg:g}.png" for cfg in cfgs)
    for path in paths:
        Image.new("RGB", (64, 48), (step, index, 9)).save(path)
    return ShownSample(step, Sample(index, paths[0], text, "", 5, cfgs, (64, 48), paths))


def test_each_panel_has_its_curves_and_a_run_with_a_hundred_thousand_losses_a_thousand_points() -> None:
    names = ("loss/log_step", "loss/val", "loss/cats", "hyperparameter/lr unet", "performance/vram")
    drawn = charts_json([ChartRun({**{name: curve_of(3) for name in names}, "loss/log_step": curve_of(100_000)})])
    panels = {panel["title"]: [curve["label"] for curve in panel["curves"]] for panel in drawn["panels"]}
    assert panels["Loss"] == ["training", "validation", "cats"]
    assert panels["Learning rate"] == ["unet"]
    assert panels["GPU memory (GB)"] == ["peak"]
    loss = drawn["runs"][0]["curves"]["loss/log_step"]
    assert 500 <= len(loss["steps"]) <= 1000
    assert (loss["steps"][-1], loss["low"][0], max(loss["high"])) == (100_000, 1, 100_000)
    assert "low" not in drawn["runs"][0]["curves"]["loss/val"], "as many points as values"
    assert len(json.dumps(drawn)) < 60_000


def test_a_page_gets_only_the_points_that_follow_those_it_holds() -> None:
    run = ChartRun({"loss/log_step": curve_of(50)})

    def news(held: object) -> dict[str, object]:
        return dict(chart_news(run, {"loss/log_step": held})["curves"]["loss/log_step"])

    assert (news([1, 48])["from"], news([1, 48])["steps"]) == (47, [48, 49, 50])
    for other in ([2, 20], [1, 51], [1, 0], "x", None, {"a": 1}, [1]):
        assert (news(other)["from"], len(news(other)["steps"])) == (0, 50), other


def test_the_matrix_has_a_column_for_each_step_and_an_image_for_each_cfg(tmp_path: Path) -> None:
    shown = [sample(tmp_path, step, index, f"prompt {index}") for step in (10, 0) for index in (0, 1)]
    copies = ImageCopies(32, 16)
    drawn = Matrix(columns_of(shown), copies, [tmp_path]).as_json()
    assert [column["label"] for column in drawn["columns"]] == ["before training", "step 10"]
    assert [(row["prompt"], row["cfgs"]) for row in drawn["rows"]] == [(f"prompt {n}", [1.0, 4.0]) for n in (0, 1)]
    pictures = drawn["columns"][0]["pictures"]
    assert [(row, turn) for row, turn, _ in pictures] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with TestClient(Starlette(routes=[copies.mount()])) as client:
        for suffix, size in (("-s.webp", (16, 12)), (".webp", (32, 24)), (".png", (64, 48))):
            answer = client.get(f"{copies.route}/{pictures[0][2]}{suffix}")
            assert answer.status_code == 200
            with Image.open(copies.folder / f"{pictures[0][2]}{suffix}") as copy:
                assert copy.size == size
        assert client.get(f"{copies.route}/{pictures[0][2]}-x.webp").status_code == 404


def test_nothing_outside_the_folder_of_the_run_is_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "private.png")
    for path in (tmp_path / "private.png", run / ".." / "private.png"):
        foreign = Sample(0, path, "a", "", 5, (1.0,), (64, 64), (path,))
        (column,) = Matrix([Column("step 1", [foreign])], ImageCopies(64), [run]).columns_json()
        assert column["pictures"] == []


def test_a_prompt_that_changes_each_time_is_one_row(tmp_path: Path) -> None:
    shown = [sample(tmp_path, step, 0, f"caption {step}", (4.0,)) for step in range(8)]
    few, many = (Matrix(columns_of(part), ImageCopies(64), [tmp_path]) for part in (shown[:3], shown))
    assert len(few.rows_json()) == 3
    assert [row["prompt"] for row in many.rows_json()] == ["Prompt 1 changes"]
    assert many.columns_json()[5]["pictures"][0][3] == "caption 5"
    held = {"columns": 3, "layout": few.layout}
    assert few.news(held)["from"] == 2
    assert many.news(held)["from"] == 0, "its rows have moved"


def test_the_training_image_of_a_prompt_is_offered_by_the_page_of_the_owner_alone_and_within_its_folders(
    tmp_path: Path,
) -> None:
    import gradio as gr

    run, images = tmp_path / "logs" / "mine_20250101-120000", make_images(tmp_path / "images", [(64, 64)] * 2)
    (shown,) = [sample(run, 10, 0, "an image of number 1", (4.0,))]
    shown = replace(shown, sample=replace(shown.sample, trained="0/01.png"))
    (run / "settings.json").write_text(json.dumps({"data_root": [str(images)]}))

    def sent(roots: Roots, *, is_owner: bool) -> str:
        context = Context(user=UserFiles(tmp_path / "user"), roots=roots)
        with gr.Blocks(analytics_enabled=False):
            data = LiveData(context.samples, is_owner=is_owner, trained=context.trained_in if is_owner else None)
        snapshot = RunSnapshot(revisions={"samples": 1}, run_dir=run, samples=(shown,))
        news = "".join(data.updates(snapshot, Held(is_away=False)).values())
        assert "an image of number 1" in news
        if found := re.search(rf"{context.thumbs.route}/[\w-]+\.webp", news):
            context.thumbs.make(found[0].rpartition("/")[2])
            assert (context.thumbs.folder / found[0].rpartition("/")[2]).is_file()
        assert not context.samples._offered, "the monitor page serves these too"
        return news

    assert "01.png&quot;]" in sent(Roots(), is_owner=True)
    assert "01.png&quot;]" in sent(Roots((tmp_path,)), is_owner=True)
    assert "01.png&quot;]" not in sent(Roots((tmp_path / "logs",)), is_owner=True)
    assert "01.png&quot;]" not in sent(Roots(), is_owner=False)
    assert image_of([images], "0/01.png#2") == images / "01.png", "an entry of a manifest"
    for foreign in ("1/01.png", "x/01.png", "0/", "", "-1/01.png"):
        assert image_of([images], foreign) is None


@pytest.mark.parametrize("sent", [None, 5, "", "x", "[]", "{}", '{"away": 1}', '{"curves": []}', "[" * 5000])
def test_a_page_that_says_nothing_sensible_gets_nothing(sent: object) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        data = LiveData(ImageCopies(64))
    assert data.updates(RunSnapshot(revisions={"loss": 1}), Held.of(sent)) == {}


@pytest.mark.parametrize("is_owner", [True, False])
def test_only_the_page_of_the_owner_offers_to_use_a_step(is_owner: bool) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        data = LiveData(ImageCopies(64), is_owner=is_owner)
    news = "".join(data.updates(RunSnapshot(revisions={"samples": 1}), Held(is_away=False)).values())
    assert f"&quot;owner&quot;:{str(is_owner).lower()}" in news


def test_a_page_that_holds_another_run_gets_all_of_this_one() -> None:
    import gradio as gr

    copies = ImageCopies(64)
    with gr.Blocks(analytics_enabled=False):
        data = LiveData(copies)
    shown = RunSnapshot(revisions={"loss": 7}, sequence=3, curves={"loss/log_step": curve_of(9)})

    def asked(key: str, loss: int) -> str:
        held = {
            "away": False,
            "key": key,
            "revisions": {"loss": loss, "samples": 0},
            "curves": {"loss/log_step": [1, 9]},
        }
        return "".join(data.updates(shown, Held.of(json.dumps(held))).values())

    assert asked(f"{copies.route} 3", 7) == ""
    assert "&quot;from&quot;:8" in asked(f"{copies.route} 3", 6)
    assert "&quot;from&quot;:0" in asked(f"{copies.route} 2", 7)
