"""Over 300 hostile images, read in one go by a child whose memory is limited."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ed2.data.example import Example
from ed2.data.pixels import LoaderOptions, load_image
from ed2.data.variants import VisitKey
from ed2.settings.files import PROGRAM_DIR
from tests.hostile.cases import Case, write
from tests.hostile.images import all_images

LIMIT_GB = 2
"""Of address space, for the whole child."""
MAX_GROWTH_BYTES = 1 << 30


def scanned(folder: Path) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "tests.hostile.scanned", str(folder), str(LIMIT_GB)]
    child = subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, timeout=200, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout), child.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("hostile") / "images"
    cases = write(all_images(), folder)
    return (cases, *scanned(folder))


def test_there_are_more_than_300_and_each_is_used_or_counted_with_its_reason(images: Any) -> None:
    cases, found, _ = images
    assert len(cases) >= 300
    assert found["used"].keys() | found["problems"].keys() == {case.name for case in cases}
    assert not found["used"].keys() & found["problems"].keys()


def test_each_is_classified_as_expected(images: Any) -> None:
    cases, found, _ = images
    wrong = {}
    for case in cases:
        what, fix = found["problems"].get(case.name, ("", ""))
        if not what:
            is_right = not case.expected or case.either
        else:
            is_right = bool(fix and case.expected and re.search(case.expected, what))
        if not is_right:
            wrong[case.name] = f"{what or 'used'} (expected {case.expected or 'used'})"
    assert not wrong


def test_animated_and_wide_images_are_used_with_a_note(images: Any) -> None:
    cases, found, _ = images
    told = {(path, kind) for path, kind, _ in found["notes"]}
    assert {(case.name, case.note) for case in cases if case.note} <= told


def test_memory_stays_bounded_and_nothing_is_written_to_the_console(images: Any) -> None:
    _, found, said = images
    assert found["grown_bytes"] < MAX_GROWTH_BYTES
    assert said == ""


def test_transparent_pixels_are_trained_with_the_chosen_colour(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
    example = Example(path=path, root=0, name="clear.png", caption="", size=(64, 64), bucket=(64, 64))
    for background, shown in (
        ("white", [255] * 3),
        ("black", [0] * 3),
        ("grey", [128] * 3),
        ("#80FF00", [128, 255, 0]),
    ):
        options = LoaderOptions(seed=1, batch_size=1, background=background)
        assert load_image(example, VisitKey(0, example.key, 0), options).pixels[9, 9].tolist() == shown


LARGE = """
import sys
from pathlib import Path
from ed2.data.images import decode
from tests.hostile.scanned import peak_bytes
idle = peak_bytes()
assert decode(Path(sys.argv[1])).size == (10000, 10000)
print((peak_bytes() - idle) >> 20)
"""


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("name", "mode"),
    [("rgb.png", "RGB"), ("alpha.png", "RGBA"), ("palette.png", "P"), ("deep.tif", "I;16"), ("float.tif", "F"),
     ("cmyk.tif", "CMYK"), ("rgb.jpg", "RGB"), ("rgb.webp", "RGB"), ("rgb.avif", "RGB")],
)  # fmt: skip
def test_an_image_of_100_million_pixels_takes_bounded_memory(tmp_path: Path, name: str, mode: str) -> None:
    options = {"compress_level": 1} if name.endswith("png") else {"speed": 10} if name.endswith("avif") else {}
    Image.new(mode, (10000, 10000)).save(tmp_path / name, **options)
    command = [sys.executable, "-c", LARGE, str(tmp_path / name)]
    child = subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, check=True)
    print(name, child.stdout.strip(), "MB")
    assert int(child.stdout) < 1700
