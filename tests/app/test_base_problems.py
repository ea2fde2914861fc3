"""A base model that a run would refuse: the check, the page and the start say the same of it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from ed2.app.checks.check import run_check
from ed2.app.checks.start_checks import base_problems, start_problems
from ed2.app.command import main as train_main
from ed2.errors import Problem, ProblemsError
from tests.hostile.model_folders import folder_models
from tests.hostile.models import Model, all_models
from tests.models.test_single_file import tensors_of, write
from tests.runs import Values, train

SETTINGS = ("resume_ckpt", "prediction_type", "vae")
CASES = {case.name: case for case in (*all_models(), *folder_models())}
FOUND_WHILE_READING = re.compile(r"(config|tokenizer|vocabulary)-.*|.*-(inf|nan|zero|other-shape|without-one)")
"""The cases that only the networks or the weights show, which a check does not load."""
REFUSED = sorted(name for name, case in CASES.items() if case.expected and name != "long-name")
"""The long name is refused as a setting."""


def told(values: Values) -> list[list[Problem]]:
    """What check, page and start list of the base model."""
    check = [problem for problem in run_check(values, None, quiet=True).model_problems if problem.path in SETTINGS]
    page = [problem for problem in start_problems(values) if problem.path in SETTINGS]
    with pytest.raises(ProblemsError) as raised:
        train(values)
    return [check, page, list(raised.value.problems)]


def values_for(base: Path, images: Path, tmp_path: Path) -> Values:
    return {
        "resume_ckpt": str(base),
        "data_root": [str(images)],
        "resolution": 64,
        "logdir": str(tmp_path / "logs"),
        "no_save_ckpt": True,
    }


def made(case: Model, sd1: Path, tmp_path: Path) -> Path:
    if not case.is_file:
        shutil.copytree(sd1, tmp_path / case.name)
    return case.spoil(tmp_path / case.name)


@pytest.mark.slow
def test_check_page_and_start_refuse_the_same_base_models_with_the_same_words(
    sd1: Path, images: Path, tmp_path: Path
) -> None:
    for name in REFUSED:
        base = made(CASES[name], sd1, tmp_path)
        if not base_problems({"resume_ckpt": str(base)}):
            assert FOUND_WHILE_READING.fullmatch(name), name
            continue
        check, page, start = told(values_for(base, images, tmp_path))
        assert check and check == page == start, name
        assert all(problem.fix for problem in check), name


def test_the_check_on_the_command_line_gives_the_reason_of_the_start(
    sd1: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = made(CASES["config-inpainting"], sd1, tmp_path)
    argv = ["--check", "--json", "--data_root", str(images), "--resume_ckpt", str(base), "--resolution", "64"]
    assert train_main(argv) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    (start,) = told(values_for(base, images, tmp_path))[2]
    assert {"path": "resume_ckpt", "what": start.what, "fix": start.fix} in problems
    assert "this is an inpainting model, which cannot be trained here" in start.what


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        (("first_stage_model.",), "it has no VAE. Set --vae to a VAE of SD 1.x"),
        (("cond_stage_model.",), "it has no text encoder. Get the complete model: UNet, VAE and text encoder in"),
        (("first_stage_model.", "cond_stage_model."), "it has no VAE and no text encoder. Get the complete model"),
    ],
)
def test_what_a_pruned_file_needs_is_said_alike(
    prefixes: tuple[str, ...], words: str, sd1: Path, images: Path, tmp_path: Path
) -> None:
    tensors = tensors_of(sd1)
    wide = torch.zeros(8, 768)  # of the text that the UNet attends to, by which a file without text encoder is known
    tensors = {name: wide if name.endswith("attn2.to_k.weight") else tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
    check, page, start = told(values_for(write(tmp_path / "pruned.safetensors", kept), images, tmp_path))
    assert check == page == start and words in str(start[0])


def test_an_sd2_file_that_does_not_say_what_it_predicts_is_a_problem_of_that_setting(
    sd2: Path, images: Path, tmp_path: Path
) -> None:
    values = values_for(write(tmp_path / "sd2.safetensors", tensors_of(sd2)), images, tmp_path)
    check, page, start = told(values)
    assert check == page == start and [problem.path for problem in start] == ["prediction_type"]
    assert not base_problems({**values, "prediction_type": "epsilon"})


def test_a_wrong_vae_is_a_problem_of_that_setting(sd1: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<!doctype html>Sign in")
    for vae, words in ((tmp_path / "none", "there is no VAE"), (tmp_path / "page.safetensors", "a web page (HTML)")):
        check, page, start = told({**values_for(sd1, images, tmp_path), "vae": str(vae)})
        assert check == page == start
        assert [problem.path for problem in start] == ["vae"] and words in start[0].what
