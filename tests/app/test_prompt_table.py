"""The table of prompts, against the reader of the sampler."""

from pathlib import Path

import pytest

from ed2.app.page.prompt_table import PromptTable, file_of, table_of
from ed2.errors import SettingsError
from ed2.sampling.prompt import NUM_STEPS, PromptDefaults
from ed2.sampling.prompt_json import prompts_from_json

ROWS = [("a cat", "blurry", "7", "512", "768", "1 4.5"), ("a dög", "", "", "", "", ""), ("", "", "", "", "", "")]


def test_the_sampler_reads_what_the_table_says(tmp_path: Path) -> None:
    text = file_of(PromptTable(ROWS, "euler", 20))
    prompts, _, faults = prompts_from_json(text.encode(), PromptDefaults(555, (512, 512)))
    assert not faults
    cat, dog = prompts
    told = (cat.prompt, cat.negative_prompt, cat.seed, cat.size, cat.cfgs)
    assert told == ("a cat", "blurry", 7, (512, 768), (1, 4.5))
    assert (dog.prompt, dog.negative_prompt, dog.seed, dog.size, dog.cfgs) == ("a dög", "", 555, (512, 512), (1, 4, 7))
    assert {(p.sampler, p.num_steps) for p in prompts} == {("euler", 20)}
    path = tmp_path / "prompts.json"
    path.write_text(text, encoding="utf-8")
    assert table_of(path) == PromptTable(ROWS[:2], "euler", 20)


def test_a_text_file_becomes_rows(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n# no\n\na dog\n")
    assert [row[0] for row in table_of(path).rows] == ["a cat", "a dog"]


def test_every_invalid_cell_is_reported_with_its_row() -> None:
    rows = [("a", "", "x", "512", "", "loud"), ("b", "", "-2", "8", "8", "")]
    with pytest.raises(SettingsError) as caught:
        file_of(PromptTable(rows, num_steps=0))
    places = [problem.path for problem in caught.value.problems]
    assert places == [None] + ["row 1"] * 3 + ["row 2"] * 3
    assert caught.value.problems[0].fix == f"The default is {NUM_STEPS}."


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    for content in ("{", "[1]", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r".+"):
            table_of(path)
