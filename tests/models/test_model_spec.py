"""The metadata of single files by the SAI model spec."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.__main__ import main
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.identity import read_manifest
from ed2.models.families.facts import FACTS
from ed2.models.files.description import ModelSpec
from ed2.models.files.header import read_header
from tests.models.test_single_file import tensors_of, write
from tests.runs import train
from tests.tiny import make_images


def hash_of_tensors(file: Path) -> str:
    """The hash as the spec describes it: of everything behind the header."""
    content = file.read_bytes()
    return f"0x{hashlib.sha256(content[8 + int.from_bytes(content[:8], 'little') :]).hexdigest()}"


def spec_of(file: Path) -> dict[str, str]:
    metadata = read_header(file).metadata
    prefix = "modelspec."
    return {name.removeprefix(prefix): text for name, text in metadata.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("family", "prediction_type", "architecture"),
    [
        ("sd1", "epsilon", "stable-diffusion-v1"),
        ("sd1", "v_prediction", "stable-diffusion-v1"),
        ("sd2", "epsilon", "stable-diffusion-v2-512"),
        ("sd2", "v_prediction", "stable-diffusion-v2-768-v"),
        ("sdxl", "epsilon", "stable-diffusion-xl-v1-base"),
    ],
)
def test_the_architecture_is_named_as_in_the_list_of_the_spec(
    family: str, prediction_type: str, architecture: str
) -> None:
    found = ModelSpec("title").metadata(family, prediction_type)
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.prediction_type"] == ("v" if prediction_type == "v_prediction" else "epsilon")
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert all(facts.implementation for facts in FACTS.values())


def test_the_single_files_of_a_run_describe_themselves(sd2: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", [(64, 64)] * 3)
    for number in range(3):
        (images / f"{number:02d}.txt").write_text(f"sks dog, number {number}")
    values = {
        "project_name": "mydog",
        "data_root": [str(images)],
        "resume_ckpt": str(sd2),
        "resolution": 64,
        "max_epochs": 1,
        "sample_prompts": "",
        "logdir": str(tmp_path / "logs"),
        "save_ckpt_dir": str(tmp_path / "files"),
        "author": "Zoë",
        "license": "CC0-1.0",
    }
    run = train(values)
    file = run.ended.single_file
    assert file
    spec = spec_of(file)
    saved_at = str(read_manifest(run.checkpoint)["saved_at"])
    assert spec == {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v2-768-v",
        "implementation": "ldm",
        "title": "mydog",
        "resolution": "64x64",
        "prediction_type": "v",
        "date": f"{saved_at[:19]}Z",
        "hash_sha256": hash_of_tensors(file),
        "trigger_phrase": "sks dog",
        "author": "Zoë",
        "license": "CC0-1.0",
    }

    # A file that is written again, as after a kill, has the same bytes, whatever the clock says by then.
    before = file.read_bytes()
    file.unlink()
    about = ModelSpec("mydog", "64x64", trigger_phrase="sks dog", author="Zoë", license="CC0-1.0")
    again = Exporter(file.parent, run.run_dir.name, about=about).write(run.checkpoint, "sd2", "v_prediction")
    assert (again, again.read_bytes()) == (file, before)


def test_convert_keeps_what_a_file_says_of_its_model_and_renews_what_it_says_of_itself(
    sd1: Path, tiny_configs: Path, tmp_path: Path
) -> None:
    given = {"title": "Of a stranger", "author": "Zoë", "hash_sha256": "0x12", "architecture": "other"}
    metadata = {f"modelspec.{name}": text for name, text in given.items()}
    source = write(tmp_path / "source.safetensors", tensors_of(sd1), metadata)
    assert main(["convert", str(source), str(tmp_path / "half.safetensors"), "--export_dtype", "fp16"]) == 0
    spec = spec_of(tmp_path / "half.safetensors")
    assert (spec["title"], spec["author"]) == ("Of a stranger", "Zoë")
    assert spec["architecture"] == "stable-diffusion-v1"
    assert spec["hash_sha256"] == hash_of_tensors(tmp_path / "half.safetensors")
    assert main(["convert", str(sd1), str(tmp_path / "named.safetensors")]) == 0
    spec = spec_of(tmp_path / "named.safetensors")
    assert (spec["title"], spec["resolution"]) == ("named", "64x64")


def test_a_ckpt_has_the_metadata_without_a_hash(sd1: Path, tmp_path: Path) -> None:
    assert main(["convert", str(sd1), str(tmp_path / "one.ckpt")]) == 0
    metadata = torch.load(tmp_path / "one.ckpt", weights_only=True)["metadata"]
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert "modelspec.hash_sha256" not in metadata


def test_the_hash_is_that_of_the_bytes_which_other_programs_read(sd1: Path, tmp_path: Path) -> None:
    """They load the file and hash its tensors in the order of the file."""
    assert main(["convert", str(sd1), str(tmp_path / "one.safetensors")]) == 0
    file = tmp_path / "one.safetensors"
    places, tensors = read_header(file).places, load_file(file)
    digest = hashlib.sha256()
    for name in sorted(places, key=places.__getitem__):
        digest.update(tensors[name].numpy().tobytes())
    assert spec_of(file)["hash_sha256"] == f"0x{digest.hexdigest()}"
