"""Every script of the developers runs, in a small form."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ed2.models.files.header import read_header
from ed2.sampling.prompt import Prompt
from ed2.settings.files import PROGRAM_DIR
from scripts.audit import told
from scripts.recipe_trials.table import CEILING, UNTRAINED
from scripts.recipe_trials.trials import RECIPES, VERSION
from tests.past_runs import write_sample

Run = Callable[..., str]
SCRIPTS = PROGRAM_DIR / "scripts"
NOT_RUN_HERE = {"check", "sizes.py", "attack"}
"""`check` runs these tests and sizes.py; `attack` is run by tests/ui/test_attack.py."""
IN_CHECKOUT = pytest.mark.skipif(not (PROGRAM_DIR / ".git").exists(), reason="compares with a commit of the repository")


def run(script: str, *arguments: object, code: int = 0) -> str:
    """Run a script in a process of its own, and return what it printed."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROGRAM_DIR, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script in this process, which has read the libraries already, and returns what it printed."""
    monkeypatch.chdir(PROGRAM_DIR)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run_here(script: str, *arguments: object) -> str:
        path = str(SCRIPTS / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, capsys.readouterr()
        return capsys.readouterr().out

    return run_here


def test_every_script_is_run_by_a_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    files = [path for path in SCRIPTS.iterdir() if path.is_file()]
    scripts = {path.name for path in files if "__main__" in path.read_text(encoding="utf-8")} - NOT_RUN_HERE
    assert scripts - set(re.findall(r'run(?:_here)?\(\s*"([\w.]+)"', text)) == set()


def test_make_docs_writes_the_pages_that_are_here(run_here: Run, tmp_path: Path) -> None:
    run_here("make_docs", tmp_path)
    for name in ("docs/settings.md", "docs/buckets.md", "docs/presets.md", "README.md"):
        assert (tmp_path / name).read_bytes() == (PROGRAM_DIR / name).read_bytes(), "run: python scripts/make_docs"


def test_rank_plan_says_how_long_processes_wait(run_here: Run) -> None:
    rows = run_here("rank_plan.py", "--images", 400).splitlines()[1:]
    waiting = [float(row.split()[2].rstrip("%")) for row in rows]
    assert len(rows) == 9 and all(0 <= share < 20 for share in waiting)


def test_what_fits_on_two_cards_is_what_the_page_on_several_gpus_says(run_here: Run) -> None:
    page = (PROGRAM_DIR / "docs" / "several-gpus.md").read_text(encoding="utf-8")
    for row in run_here("rank_plan.py", "--memory").splitlines()[1:]:
        optimizer, fused, *batches = row.split()
        is_on = "on" if fused == "True" else "off"
        if optimizer == "adamw":
            is_on = "on or off"
        assert f"| {optimizer} | {is_on} | {' | '.join(batches)} |" in page


def test_make_hostile_writes_every_kind_of_file(run_here: Run, tmp_path: Path) -> None:
    printed = run_here("make_hostile", tmp_path / "hostile")
    assert "images, " in printed and "settings" in printed
    for kind in ("images", "captions", "models", "settings"):
        assert any((tmp_path / "hostile" / kind).iterdir())
        assert json.loads((tmp_path / "hostile" / f"{kind}.expected.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_bench_makes_its_table(tmp_path: Path) -> None:
    printed = run("bench", "--short", "--target", tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert found["machine"]["cpu"] and found["is_short"]
    names = " ".join(row["what"] for row in found["rows"])
    parts = "no cache,cached,rounding,fills,start,peak memory,blocked,whole save,scan,again,plan,JPEG,PNG"
    for part in parts.split(","):
        assert part in names, part
    assert all(row["ours"] > 0 and f"| {row['what']} |" in printed for row in found["rows"])


@pytest.mark.slow
@pytest.mark.browser
def test_bench_measures_the_page(tmp_path: Path) -> None:
    if not shutil.which("chromium"):
        pytest.skip("needs Chromium")
    run("bench", "page", "--short", "--target", tmp_path / "bench.json")
    rows = {row["what"]: row for row in json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]}
    assert {"page load", "Settings tab, opened for the first time", "Check, first images"} <= rows.keys()
    assert all(row["ours"] > 0 for row in rows.values())


@pytest.mark.slow
def test_bench_opens_a_long_run(tmp_path: Path) -> None:
    printed = run("bench", "runs", "--short", "--folder", tmp_path)
    assert "| run of 20 points and 8 samples: opened | CPU s |" in printed
    assert "| at most 2 | met |" in printed


@pytest.mark.slow
def test_on_gpu_measures_tiny_models_on_the_cpu_from_start_to_table(run_here: Run, tmp_path: Path) -> None:
    printed = run_here("on_gpu", "--dry", "--target", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert not [row["failed"] for row in report["rows"] if "failed" in row]
    full, lora, low_memory, *_ = report["rows"]
    assert full["save_gb"] > 0 and full["sample_seconds"] > 0 and full["save_blocks_seconds"] >= 0
    assert all(row["step_seconds"] > 0 and row["planned_expected_gb"] > 0 for row in (full, lora, low_memory))
    assert any("tests" in text for text in report["left_out"])
    assert (tmp_path / "report.md").read_text(encoding="utf-8") in printed and f"| {lora['what']} |" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the script reads what POSIX tells of a process")
def test_measure_lora_prints_its_figures() -> None:
    printed = run("measure_lora.py", "--base", PROGRAM_DIR / "ed2" / "demo" / "base", "--resolution", 64)
    assert re.search(r"LoRA at 64, .* at most \d+\.\d\d GB of memory, \d+ s; single file of \d+ MB", printed)


@pytest.mark.slow
def test_recipes_train_score_and_go_on_where_they_were_stopped(run_here: Run, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    options = ("--short", "--seeds", 1, "--results", file)
    run_here("recipes", "rate: 1e-3", "method: LoRA 4", "schedule: constant, EMA", *options)
    *whole, last = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*whole, last[:20]]), encoding="utf-8")  # a stop in the middle of a line
    printed = run_here("recipes", "method: LoRA 4", "schedule: constant, EMA", *options)
    rows = [json.loads(line) for line in [*whole, *printed.splitlines()]]
    assert [row["row"] for row in rows[:2]] == ["ceiling of the VAE", "base model, untrained"]
    assert [row["steps"] for row in rows[2:]] == [6, 6, 6] and len({row["key"] for row in rows[2:]}) == 3
    ceiling, untrained = (row["scores"] for row in rows[:2])
    assert ceiling["shown"] > 0.9 and untrained["shown"] < 0.1
    assert all(0 <= value <= 1 for row in rows for value in row["scores"].values())


def test_recipes_leave_a_row_with_two_seeds_out_of_the_table(run_here: Run, tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text("Before.\n\n<!-- results -->\n<!-- end -->\nAfter.\n", encoding="utf-8")
    lines: list[dict[str, object]] = [
        {"row": CEILING, "key": "", "seed": 0, "scores": scores_of(0.5)},
        {"row": UNTRAINED, "key": "", "seed": 0, "scores": scores_of(0.5)},
    ]
    for recipe, num_seeds in zip(RECIPES, (3, 3, 3, 2), strict=False):
        values = {"row": recipe.name, "key": recipe.key(), "steps": 300}
        taught = 0.2 if recipe is RECIPES[2] else 0.4
        lines += [{**values, "seed": seed, "scores": scores_of(taught + seed / 100)} for seed in range(num_seeds)]
    file.write_text("".join(json.dumps({"version": VERSION, **line}) + "\n" for line in lines), encoding="utf-8")
    run_here("recipes", "--table", "--results", file, "--page", page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.") and text.endswith("After.\n")
    assert f"| {RECIPES[0].name} | 300 | 0.82 (0.80 to 0.84) |" in text
    assert f"| {RECIPES[2].name} | 300 | **0.42 (0.40 to 0.44)** |" in text
    assert RECIPES[3].name not in text


def scores_of(value: float) -> dict[str, float]:
    return dict.fromkeys(("shown", "held_out", "backgrounds", "objects"), value)


def test_the_table_of_recipes_is_that_of_their_results(run_here: Run, tmp_path: Path) -> None:
    page = PROGRAM_DIR / "docs" / "recipes.md"
    copy = shutil.copy(page, tmp_path)
    run_here("recipes", "--table", "--page", copy)
    assert Path(copy).read_bytes() == page.read_bytes()


def test_memory_table_leaves_a_current_page_as_it_is(run_here: Run, tmp_path: Path) -> None:
    page = PROGRAM_DIR / "docs" / "memory.md"
    copy = shutil.copy(page, tmp_path)
    assert "within 10 %" in run_here("memory_table.py", copy)
    assert Path(copy).read_bytes() == page.read_bytes()


def test_trace_memory_finds_what_is_recorded(run_here: Run, tmp_path: Path) -> None:
    run_here("trace_memory", "demo", "--first", 1, "--target", tmp_path / "traced.json")
    found, recorded = (
        json.loads(path.read_text(encoding="utf-8"))["families"]["demo"]
        for path in (tmp_path / "traced.json", PROGRAM_DIR / "ed2" / "vram" / "traced.json")
    )
    ((variant, rows),) = found.pop("training").items()
    assert rows == recorded["training"][variant]
    assert found == {name: recorded[name] for name in found}


def test_full_size_writes_a_network_as_published(run_here: Run, tmp_path: Path) -> None:
    run_here("full_size.py", "sd1", tmp_path / "base", "--only", "vae")
    header = read_header(tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors")
    assert len(header.shapes) == 248
    assert (tmp_path / "base" / "tokenizer" / "vocab.json").is_file()


def test_before_after_shows_the_samples_of_a_run(run_here: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for step, colour in ((0, "red"), (600, "blue")):
        prompt = Prompt(0, "a zorg", 5, (64, 64))
        write_sample(run_dir, step=step, prompt=prompt, tiles=[Image.new("RGB", (64, 64), colour)] * 3)
    run_here("before_after.py", tmp_path / "made.png", "--run", run_dir)
    with Image.open(tmp_path / "made.png") as made:
        colours = made.convert("RGB").getcolors(1 << 20)
    assert {(255, 0, 0), (0, 0, 255)} <= {colour for _, colour in colours}


@pytest.mark.slow
def test_audit_says_that_it_cannot_reach_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert run("audit.py") == "Not audited: pip-audit cannot be installed here.\n"


def test_audit_tells_a_vulnerable_version_from_one_without_data() -> None:
    no_data = {"name": "a", "skip_reason": "not found"}
    fine = {"name": "b", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
    assert told("no JSON")[0].startswith("Not audited")
    assert told(json.dumps({"dependencies": [no_data]}))[0].startswith("Not audited")
    assert told(json.dumps({"dependencies": [no_data, fine]})) == (
        "Audited 1 packages, 1 without data: no known vulnerabilities.",
        0,
    )
    text, code = told(json.dumps({"dependencies": [fine, bad]}))
    assert code == 1 and text.startswith("c 2: PYSEC-1, mended in 3\nAudited 2 packages: 1 known")


@IN_CHECKOUT
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_same_bytes_finds_a_tree_equal_to_its_own_commit() -> None:
    assert "1 of 1 option sets are equal" in run("same_bytes", "HEAD", "--only", "text-options")


def test_same_bytes_names_the_option_sets_when_one_is_unknown() -> None:
    run("same_bytes", "HEAD", "--only", "nothing", code=2)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_torture_soaks() -> None:
    """That it kills is tried in tests/torture/test_kills.py."""
    assert "10 steps" in run("torture", "soak", "--steps", 10)


@pytest.mark.browser
@pytest.mark.slow
def test_screenshots_show_every_tab_and_the_first_screen(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    printed = run("screenshots", tmp_path / "shots", tmp_path / "logs", "--only", "desktop-light")
    assert printed.startswith("6 screenshots")


def test_what_needs_a_gpu_is_skipped_where_there_is_none() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/data/test_loader.py"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=PROGRAM_DIR, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 skipped" in done.stdout and "failed" not in done.stdout, done.stdout
