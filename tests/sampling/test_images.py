import json
from pathlib import Path

import pytest
from PIL import Image

from ed2.sampling.images import image_name, read_samples, save_png
from ed2.sampling.prompt import Prompt
from tests.past_runs import write_sample

CFGS = (1.0, 4.0, 7.5)


def tiles(size: tuple[int, int], shade: int = 0) -> list[Image.Image]:
    return [Image.new("RGB", size, (shade, 40 * number, 200)) for number in range(len(CFGS))]


def test_each_cfg_has_an_image_of_its_own_named_by_index_and_cfg(tmp_path: Path) -> None:
    prompt = Prompt(3, "a/../cat 猫 <b>", 5, (64, 48), "ugly", CFGS)
    sample = write_sample(tmp_path, step=300, prompt=prompt, tiles=tiles((64, 48)))
    folder = tmp_path / "samples" / "gs00300"
    assert [path.name for path in sample.paths] == ["03-cfg1.png", "03-cfg4.png", "03-cfg7.5.png"]
    assert sample.path == folder / "03-cfg4.png", "the middle one stands for all"
    (line,) = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["path"] == "samples/gs00300/03-cfg4.png"
    assert entry["paths"] == [f"samples/gs00300/{path.name}" for path in sample.paths]
    assert (entry["step"], entry["index"], entry["seed"]) == (300, 3, 5)
    assert (entry["prompt"], entry["negative_prompt"]) == (prompt.prompt, "ugly")
    assert (entry["size"], entry["cfgs"]) == ([64, 48], [1.0, 4.0, 7.5])
    for path, tile in zip(sample.paths, tiles((64, 48)), strict=True):
        with Image.open(path) as image:
            assert image.tobytes() == tile.tobytes()
    assert sorted(folder.iterdir()) == sorted(sample.paths), "no temporary file is left"


def test_a_single_cfg_needs_no_name_and_two_alike_have_a_place() -> None:
    assert image_name(3, 0, (4.0,)) == "03.png"
    assert [image_name(0, place, (4.0, 4.0, 7.0)) for place in range(3)] == [
        "00-cfg4-1.png",
        "00-cfg4-2.png",
        "00-cfg7.png",
    ]


def test_the_same_image_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sample(tmp_path / name, step=1, prompt=Prompt(0, "x", 5, (64, 64), "", CFGS), tiles=tiles((64, 64)))
    first, second = (tmp_path / name / "samples/gs00001/00-cfg4.png" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "00.png"
    save_png(Image.new("RGB", (2, 2)), path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_png(Image.new("RGB", (4, 4)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_list_survives_torn_lines_and_keeps_the_last_of_an_image(tmp_path: Path) -> None:
    lines = [{"step": 1, "index": 0, "prompt": "a", "seed": 1}, {"step": 1, "index": 0, "prompt": "a", "seed": 2}]
    text = "\n".join([json.dumps(lines[0]), '{"step": 1, "ind', "7", "[]", '{"step": "x"}', json.dumps(lines[1])])
    (tmp_path / "samples.jsonl").write_text(text)
    assert read_samples(tmp_path) == [lines[1]]
    assert read_samples(tmp_path / "nowhere") == []
