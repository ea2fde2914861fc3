import json
from pathlib import Path

import pytest

from ed2.sampling.prompt import FileOptions, Prompt
from ed2.sampling.prompts import PromptFile


def reader(tmp_path: Path, content: object, **changes: object) -> PromptFile:
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return PromptFile(**{"path": path, "seed": 5, "resolution": 512, "captions": ("one", "two", "three"), **changes})


def test_every_key_is_read(tmp_path: Path) -> None:
    file = reader(
        tmp_path,
        {
            "batch_size": 3,
            "seed": 555,
            "cfgs": [7, 4],
            "scheduler": "dpm++_2m_k",
            "num_inference_steps": 15,
            "resolution": 640,
            "show_progress_bars": False,
            "generate_samples_every_n_steps": 200,
            "generate_pretrain_samples": False,
            "samples": [
                {"prompt": "a cat", "negative_prompt": "a dog", "seed": 1, "size": [500, 700], "cfgs": [3]},
                {"prompt": "a bird", "aspect_ratio": 1.7778, "scheduler": "euler", "num_inference_steps": 9},
                {"prompt": "a fish", "aspect_ratio": "1:1"},
            ],
        },
    )
    prompts, note = file.read()
    assert note == ""
    assert prompts == (
        Prompt(0, "a cat", 1, (512, 704), "a dog", (3.0,), "dpm++_2m_k", 15),
        Prompt(1, "a bird", 555, (832, 448), "", (7.0, 4.0), "euler", 9),
        Prompt(2, "a fish", 555, (640, 640), "", (7.0, 4.0), "dpm++_2m_k", 15),
    )
    assert file.options == FileOptions(3, 200, False)


def test_random_values_change_from_step_to_step_and_are_repeatable(tmp_path: Path) -> None:
    file = reader(tmp_path, {"samples": [{"prompt": "x", "seed": -1}, {"random_caption": True}]})
    drawn = [file.read(step)[0] for step in range(20)]
    assert len({prompts[0].seed for prompts in drawn}) == 20
    assert {prompts[1].prompt for prompts in drawn} == {"one", "two", "three"}
    assert file.read(3)[0] == drawn[3]


def test_no_samples_are_random_captions(tmp_path: Path) -> None:
    assert len(reader(tmp_path, {"samples": []}).read()[0]) == 3
    prompts, note = reader(tmp_path, {}, captions=()).read()
    assert prompts == () and "it contains no prompts" in note


def test_the_last_good_reading_is_kept_and_the_problem_reported_once(tmp_path: Path) -> None:
    file = reader(tmp_path, {"samples": [{"prompt": "a cat"}]})
    good = file.read()[0]
    file.path.write_text('{"samples": [')
    prompts, note = file.read()
    assert prompts == good and "invalid JSON" in note and "earlier prompts stay in use" in note
    assert file.read() == (good, "")
    file.path.write_text('{"samples": [{"prompt": "a dog"}]}')
    assert [p.prompt for p in file.read()[0]] == ["a dog"]


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"seed": "x"}, 'sample 1: seed is "x", but must be a whole number from -1'),
        ({"size": [0, 10]}, "[width, height]"),
        ({"size": [1e9, 10]}, "[width, height]"),
        ({"aspect_ratio": "0:1"}, "width / height"),
        ({"aspect_ratio": 100}, "width / height"),
        ({"cfgs": []}, "a list of 1 to 12 numbers"),
        ({"cfgs": 7}, "a list of 1 to 12 numbers"),
        ({"scheduler": "plms"}, "one of ddim, ddpm"),
        ({"num_inference_steps": 0}, "a whole number from 1"),
        ({"negative_promt": "x"}, "did you mean negative_prompt?"),
    ],
)
def test_a_problem_in_one_sample_is_reported_and_the_rest_applies(
    tmp_path: Path, sample: dict[str, object], told: str
) -> None:
    prompts, note = reader(tmp_path, {"samples": [{"prompt": "a cat", **sample}, {"prompt": "a dog"}]}).read()
    assert told in note
    assert [p.prompt for p in prompts] == ["a cat", "a dog"]
    assert prompts[0].size == (512, 512) and prompts[0].seed == 5 and prompts[0].cfgs == (1.0, 4.0, 7.0)


@pytest.mark.parametrize("content", ["[1]", '{"samples": 3}', "[" * 100_000, '{"samples": {}}'])
def test_no_content_makes_reading_fail(tmp_path: Path, content: str) -> None:
    file = reader(tmp_path, content)
    file.read()
