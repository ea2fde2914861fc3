"""More than 60 hostile base models, opened and read as a run does."""

import contextlib
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ed2.app.preflight import model_sizes
from ed2.app.resolve import resolve_settings
from ed2.errors import Ed2Error, ModelError
from ed2.models.compute import quiet_libraries
from ed2.models.families.sd import load
from ed2.models.files.source import open_base
from ed2.settings.files import with_defaults
from tests.hostile.model_folders import folder_models
from tests.hostile.models import Model, all_models
from tests.hostile.scanned import peak_bytes

MAX_GROWTH_BYTES = 1 << 30


def told(path: Path) -> str:
    """What is said of a base model; empty where it is accepted."""
    with contextlib.suppress(Ed2Error):  # what --check and the choice of a start read of it
        model_sizes(with_defaults({"resume_ckpt": str(path)}))
        resolve_settings({"resume_ckpt": str(path)}, None)
    try:
        load(open_base(path, {}), trained=(), device=torch.device("cpu"), frozen_dtype=torch.float32)
    except ModelError as error:
        text = str(error)
        text.encode()
        assert error.problems and all(problem.fix for problem in error.problems), text
        assert len(text) < 5000
        return text
    return ""


class Results(NamedTuple):
    said: list[tuple[Model, str]]
    grown_bytes: int


@pytest.fixture(scope="module")
def results(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    quiet_libraries()
    root = tmp_path_factory.mktemp("hostile")
    said, before = [], peak_bytes()
    for case in (*all_models(), *folder_models()):
        place = root / case.name
        if not case.is_file:
            shutil.copytree(sd1, place)
        said.append((case, told(case.spoil(place))))
        shutil.rmtree(place, ignore_errors=True)
    return Results(said, peak_bytes() - before)


def test_there_are_more_than_60_and_each_is_reported_as_expected(results: Results) -> None:
    assert len(results.said) > 60 and len({case.name for case, _ in results.said}) == len(results.said)
    wrong = {
        case.name: f"{said[:300] or 'accepted'} (expected {case.expected or 'accepted'})"
        for case, said in results.said
        if bool(said) != bool(case.expected) or not re.search(case.expected, said)
    }
    assert not wrong


def test_memory_stays_bounded_and_nothing_ran(results: Results) -> None:
    assert results.grown_bytes < MAX_GROWTH_BYTES
    assert not Path("pwned").exists()


def test_a_checkpoint_does_not_pass_on_the_classes_of_a_foreign_index(sd1: Path, tmp_path: Path) -> None:
    (case,) = (case for case in folder_models() if case.name == "index-foreign-classes")
    source = open_base(case.spoil(shutil.copytree(sd1, tmp_path / "model")), {})
    index = source.small_files["model_index.json"].decode()
    assert "os" not in index.split('"') and "evil" not in index
