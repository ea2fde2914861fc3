import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.sampling import images
from ed2.sampling.images import cfg_strip, read_samples, save_png, write_sample
from ed2.sampling.lettering import Lettering
from ed2.sampling.prompt import Prompt

CFGS = (1.0, 4.0, 7.5)


def tiles(size: tuple[int, int], shade: int = 0) -> list[Image.Image]:
    return [Image.new("RGB", size, (shade, 40 * number, 200)) for number in range(len(CFGS))]


@pytest.mark.parametrize("size", [(64, 64), (32, 128), (512, 384)])
def test_labels_are_above_and_tiles_are_complete(size: tuple[int, int]) -> None:
    strip = cfg_strip(tiles(size), CFGS)
    for tile, box in zip(tiles(size), strip.boxes, strict=True):
        assert strip.image.crop(box).tobytes() == tile.tobytes()
        label = np.asarray(strip.image.crop((box[0], 0, box[2], box[1])))
        assert label.min() < 100, "there is a label"
        assert label[:, :1].min() > 200, "it is not cut off"
        assert label[:, -1:].min() > 200, "it is not cut off"
    assert strip.image.width == strip.boxes[-1][2]
    assert strip.image.height == strip.boxes[-1][3]


def test_narrow_tiles_show_only_the_number() -> None:
    font = Lettering(12)
    assert images._label(4.0, font, 64) == "CFG 4"
    assert images._label(7.5, font, 32) == "7.5"


def test_a_sample_is_written_by_its_index_and_listed(tmp_path: Path) -> None:
    prompt = Prompt(3, "a/../cat 猫 <b>", 5, (64, 48), "ugly", CFGS)
    sample = write_sample(tmp_path, step=300, prompt=prompt, tiles=tiles((64, 48)))
    assert sample.path == tmp_path / "samples" / "gs00300" / "03.png"
    (line,) = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["path"] == "samples/gs00300/03.png"
    assert (entry["step"], entry["index"], entry["seed"]) == (300, 3, 5)
    assert (entry["prompt"], entry["negative_prompt"]) == (prompt.prompt, "ugly")
    assert (entry["size"], entry["cfgs"]) == ([64, 48], [1.0, 4.0, 7.5])
    with Image.open(sample.path) as image:
        assert image.crop(entry["tiles"][1]).tobytes() == tiles((64, 48))[1].tobytes()
    assert [p.name for p in sample.path.parent.iterdir()] == ["03.png"], "no temporary file is left"


def test_the_same_image_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sample(tmp_path / name, step=1, prompt=Prompt(0, "x", 5, (64, 64), "", CFGS), tiles=tiles((64, 64)))
    first, second = (tmp_path / name / "samples/gs00001/00.png" for name in ("one", "two"))
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
