import json
from pathlib import Path

import pytest

from ed2.sampling.prompt import MAX_PROMPTS, MAX_WORK, rounded_size
from ed2.sampling.prompts import MAX_CHARACTERS, MAX_FILE_BYTES, PromptFile
from ed2.settings.files import PROGRAM_DIR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.txt"


def reader(path: Path, **changes) -> PromptFile:
    return PromptFile(**{"path": path, "seed": 5, "resolution": 64, **changes})


def texts(path: Path) -> list[str]:
    return [prompt.prompt for prompt in reader(path).read()[0]]


def test_one_prompt_per_line_without_blank_lines_and_comments(path: Path) -> None:
    path.write_text("# mine\na cat\n\n   \n  a dog \r\n  # not this\na bird", encoding="utf-8")
    prompts, note = reader(path).read()
    assert [(p.index, p.prompt) for p in prompts] == [(0, "a cat"), (1, "a dog"), (2, "a bird")]
    assert not note
    assert {(p.seed, p.size, p.negative_prompt, p.cfgs) for p in prompts} == {(5, (64, 64), "", (1.0, 4.0, 7.0))}


def test_three_prompts_are_shipped() -> None:
    assert len(texts(PROGRAM_DIR / "sample_prompts.txt")) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
def test_common_encodings_are_read(path: Path, encoding: str) -> None:
    path.write_bytes("un café à Zürich\nzwei".encode(encoding))
    assert texts(path) == ["un café à Zürich", "zwei"]


def test_bytes_of_no_encoding_and_control_characters_do_no_harm(path: Path) -> None:
    path.write_bytes(b"a\x00b\x1b[31m\tc\x81\xff\n\xf0\x9f\n")
    assert texts(path)[0].startswith("a b [31m c")
    assert all(text.isprintable() for text in texts(path))


def test_a_changed_file_is_seen(path: Path) -> None:
    prompts = reader(path)
    path.write_text("one")
    assert len(prompts.read()[0]) == 1
    path.write_text("one\ntwo")
    assert len(prompts.read()[0]) == 2


def test_a_missing_file_gives_no_prompts_and_is_reported_once(path: Path) -> None:
    prompts = reader(path)
    found, note = prompts.read()
    assert found == ()
    assert str(path) in note
    assert "the file does not exist" in note
    assert prompts.read() == ((), "")
    path.write_text("now it is there")
    assert [p.prompt for p in prompts.read()[0]] == ["now it is there"]


def test_an_empty_file_gives_no_prompts_and_is_reported_once(path: Path) -> None:
    path.write_text("# nothing\n\n")
    prompts = reader(path)
    assert "no prompts" in prompts.read()[1]
    assert prompts.read() == ((), "")


@pytest.mark.parametrize("damage", ["emptied", "missing", "a folder"])
def test_a_file_that_breaks_keeps_the_prompts_read_before(path: Path, damage: str) -> None:
    path.write_text("a cat")
    prompts = reader(path)
    good, _ = prompts.read()
    path.unlink()
    if damage == "emptied":
        path.touch()
    if damage == "a folder":
        path.mkdir()
    found, note = prompts.read()
    assert found == good
    assert "earlier prompts stay in use" in note
    assert prompts.read() == (good, "")


def test_a_second_problem_is_reported_again(path: Path) -> None:
    prompts = reader(path)
    for _ in range(2):
        path.write_text("a cat")
        assert prompts.read()[1] == ""
        path.unlink()
        assert prompts.read()[1] != ""


def test_too_many_and_too_long_prompts_are_cut_and_reported_once(path: Path) -> None:
    path.write_text("\n".join(["x" * (MAX_CHARACTERS + 1)] * (MAX_PROMPTS + 3)))
    prompts = reader(path)
    found, note = prompts.read()
    assert len(found) == MAX_PROMPTS
    assert {len(p.prompt) for p in found} == {MAX_CHARACTERS}
    assert str(MAX_PROMPTS + 3) in note
    assert str(MAX_CHARACTERS) in note
    assert prompts.read() == (found, "")


def test_what_all_prompts_of_a_file_may_take_is_limited(path: Path) -> None:
    large = path.with_suffix(".json")
    sample = {"prompt": "a cat", "size": [1024, 1024], "cfgs": [1, 7], "num_inference_steps": 500}
    large.write_text(json.dumps({"samples": [sample] * 60}))
    prompts, note = reader(large).read()
    assert prompts[0].work == 3 * 500 * 4
    assert len(prompts) == MAX_WORK // 6000 == 41
    assert "only the first 41 of its 60 prompts are used, since more would take hours each time." in note
    largest = {"prompt": "a cat", "size": [2048, 2048], "cfgs": [7] * 12, "num_inference_steps": 1000}
    large.write_text(json.dumps({"samples": [largest, sample]}))
    assert len(reader(large).read()[0]) == 1  # however much it takes


def test_a_huge_file_is_read_up_to_a_whole_line(path: Path) -> None:
    path.write_bytes("é\n".encode() + b"# \xc3\xa9 and more\n" * (MAX_FILE_BYTES // 10))
    assert texts(path) == ["é"]


def test_sizes_are_rounded_to_what_the_model_accepts(path: Path) -> None:
    path.write_text("a cat")
    assert reader(path, resolution=500, multiple=64).read()[0][0].size == (512, 512)
    assert reader(path, resolution=5, multiple=16).read()[0][0].size == (16, 16)
    assert rounded_size(100, 70, 16) == (96, 64)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a cat --n worst --w 128", ("a cat", "worst", 5, (128, 64), (1.0, 4.0, 7.0), None, None)),
        ("a cat --w 128 --h 192 --d 7 --l 7.5 --s 20", ("a cat", "", 7, (128, 192), (7.5,), None, 20)),
        (
            "a dog --ss euler_a --n blurry, bad hands",
            ("a dog", "blurry, bad hands", 5, (64, 64), None, "euler_a", None),
        ),
        (
            '--prompt "a bird" --negative_prompt "ugly" --cfg_scale 5',
            ("a bird", "ugly", 5, (64, 64), (5.0,), None, None),
        ),
        ("a fox --seed=9 --steps 12", ("a fox", "", 9, (64, 64), None, None, 12)),
        ("a wide road --ar 4:1", ("a wide road", "", 5, (128, 64), None, None, None)),
    ],
)
def test_options_of_other_programs_are_read(path: Path, line: str, expected: tuple[object, ...]) -> None:
    path.write_text(line)
    (prompt,), note = reader(path).read()
    assert not note
    prompt_cfgs = prompt.cfgs if expected[4] else None
    told = (prompt.prompt, prompt.negative_prompt, prompt.seed, prompt.size, prompt_cfgs, prompt.sampler)
    assert (*told, prompt.num_steps) == expected


def test_the_lines_that_a_web_ui_copies_belong_to_one_prompt(path: Path) -> None:
    path.write_text(
        "a cat\nNegative prompt: worst\nSteps: 20, Sampler: Euler a, CFG scale: 6, Seed: 3, Size: 128x64\na dog"
    )
    (cat, dog), note = reader(path).read()
    assert not note
    assert (cat.prompt, cat.negative_prompt, cat.seed, cat.size) == ("a cat", "worst", 3, (128, 64))
    assert (cat.cfgs, cat.sampler, cat.num_steps, dog.prompt) == ((6.0,), "euler_a", 20, "a dog")


def test_what_is_no_option_here_stays_in_the_text_and_is_reported(path: Path) -> None:
    path.write_text("a cat --v 5\na dog --w wide\nwell--known dash -- and pause\n<lora:x:1> a (red:1.2) fox")
    prompts, note = reader(path).read()
    assert [p.prompt for p in prompts][:3] == ["a cat --v 5", "a dog", "well--known dash -- and pause"]
    for what in (
        "--v is not a prompt option",
        'width is "wide"',
        "<lora:...> loads nothing",
        "(word:1.2) has no effect",
    ):
        assert what in note


def test_no_file_means_no_samples_without_a_complaint() -> None:
    assert PromptFile(None, 5, 64).read() == ((), "")
