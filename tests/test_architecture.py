"""docs/architecture.md against the program: its examples run, and the types that it names exist."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ed2 import registry
from ed2.events import RunStarted, Warned
from ed2.settings.files import PROGRAM_DIR
from tests.runs import train

PAGE = (PROGRAM_DIR / "docs" / "architecture.md").read_text(encoding="utf-8")
TYPES = re.findall(r"`(\w+)` \(`(ed2/[\w/]+\.py)`\)", PAGE)
EXAMPLES = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, flags=re.DOTALL)
LINES = re.findall(r'`"(\w+)": "(my_\w+:\w+)"`', PAGE)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples as modules, and the lines of the page in their tables."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, code in EXAMPLES:
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    for table in (registry.OPTIMIZERS, registry.LOSSES, registry.JOBS):
        monkeypatch.setattr(table, "_places", dict(table.items()))
    tables = (registry.OPTIMIZERS, registry.LOSSES, registry.JOBS)
    for table, (name, place) in zip(tables, LINES, strict=True):
        table.add(name, place)
    yield


@pytest.mark.usefixtures("registered")
def test_the_examples_of_the_page_work_in_a_real_run(tmp_path: Path, sd1: Path, images: Path) -> None:
    trained = train(
        {
            "data_root": [str(images)],
            "resume_ckpt": str(sd1),
            "resolution": 64,
            "max_epochs": 2,
            "optimizer": "momentum",
            "loss_type": "absolute",
            "logdir": str(tmp_path / "logs"),
            "sample_prompts": str(tmp_path / "none.txt"),
            "no_save_ckpt": True,
        }
    )
    assert trained.ended.phase == "done"
    assert "Optimizer for the UNet: momentum, learning rate 1e-06, constant." in trained.of(RunStarted)[0].notes
    told = [event.text for event in trained.of(Warned)]
    assert told[-2:] == ["Epoch 1 of 2 is done.", "Epoch 2 of 2 is done."]


def test_each_example_takes_about_ten_lines() -> None:
    assert len(EXAMPLES) == 3
    assert all(len(code.strip().splitlines()) <= 14 for _, code in EXAMPLES)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="there is a loss named mse already"):
        registry.LOSSES.add("mse", "my_loss:mse")


def test_every_type_and_function_is_where_the_page_says() -> None:
    assert len(TYPES) >= 20
    for name, path in TYPES:
        assert re.search(rf"^(?:class|def) {name}\b", (PROGRAM_DIR / path).read_text(encoding="utf-8"), re.MULTILINE), (
            name
        )


def imports_of(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """What a module imports when it is imported itself: modules, and names in them."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield str(statement.module)
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Try):
            yield from imports_of(statement.body)


def imported_with(module: str) -> dict[str, set[str]]:
    """The packages that each module imports that is imported with `module`, by its name."""
    waiting, packages = [module], dict[str, set[str]]()
    while waiting:
        name = waiting.pop()
        path = PROGRAM_DIR / f"{name.replace('.', '/')}.py"
        if path.is_file():
            found = set(imports_of(ast.parse(path.read_text(encoding="utf-8")).body))
            packages[name] = {one.partition(".")[0] for one in found}
            waiting += [one for one in found if one.startswith("ed2.") and one not in packages]
    return packages


def test_the_page_is_served_before_the_libraries_of_models_are_read() -> None:
    """They take seconds; a thread reads them once the page is there."""
    packages = imported_with("ed2.ui.command")
    assert not [name for name, own in packages.items() if own & {"torch", "diffusers", "transformers"}]
    assert "ed2.checkpoint.identity" in packages and "ed2.checkpoint.export" not in packages


def test_a_report_is_written_without_the_libraries_of_the_page() -> None:
    """They take seconds, and the report is a file."""
    packages = imported_with("ed2.ui.report")
    assert not [name for name, own in packages.items() if own & {"gradio", "starlette", "uvicorn", "torch"}]
    assert "ed2.ui.charts" in packages
