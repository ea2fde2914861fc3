"""Folders as other programs and earlier years left them: used, or the message names the file and the command."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.__main__ import main
from ed2.models.families.sd import load
from ed2.models.files.base_model import locate
from ed2.models.files.folder import open_folder
from ed2.models.files.folder_problems import folder_problems
from ed2.models.files.source import open_base
from tests.hostile.models import TEXT, UNET, VAE
from tests.tiny import with_old_attention_names

PICKLED = {
    UNET: "unet/diffusion_pytorch_model.bin",
    VAE: "vae/diffusion_pytorch_model.bin",
    TEXT: "text_encoder/pytorch_model.bin",
}


@pytest.fixture
def folder(sd1: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sd1, tmp_path / "model")


def is_same_model(one: Path, other: Path) -> bool:
    a, b = open_folder(one), open_folder(other)
    pairs = [(a.read(part).state_dict(), b.read(part).state_dict()) for part in a.weights]
    return all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs)


def pickle_part(folder: Path, name: str, file: str) -> None:
    torch.save(load_file(folder / name), folder / file)
    (folder / name).unlink()


def told(folder: Path) -> str:
    return "\n".join(map(str, folder_problems(folder)))


@pytest.mark.parametrize("parts", [[UNET, VAE, TEXT], [TEXT]], ids=["all", "text encoder"])
def test_a_folder_of_bin_files_names_the_command_that_helps_and_convert_reads_it(
    parts: list[str], folder: Path, sd1: Path, tmp_path: Path
) -> None:
    for name in parts:
        pickle_part(folder, name, PICKLED[name])
        assert f"only {Path(PICKLED[name]).name} is there" in told(folder)
    assert './launch.sh convert "model" "model-converted"' in told(folder)
    target = tmp_path / ("converted" if len(parts) > 1 else "one.safetensors")
    assert main(["convert", str(folder), str(target)]) == 0
    assert target.is_file() or is_same_model(sd1, target)
    assert not list(tmp_path.glob(".tmp-*"))


def test_weights_that_are_pickled_in_spite_of_their_name_are_read_too(folder: Path, sd1: Path, tmp_path: Path) -> None:
    pickle_part(folder, UNET, "unet/renamed.bin")
    (folder / "unet/renamed.bin").rename(folder / UNET)
    assert './launch.sh convert "model"' in told(folder)
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    assert is_same_model(sd1, tmp_path / "converted")


def test_code_in_a_bin_file_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / UNET).unlink()
    torch.save({"conv_in.weight": Path("x")}, folder / PICKLED[UNET])
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 1
    assert "treat it as an attack" in capsys.readouterr().err
    assert not (tmp_path / "converted").exists() and not list(tmp_path.glob(".tmp-*"))


def split_part(folder: Path, name: str, index: str, pieces: str, save: Callable[[object, Path], object]) -> None:
    """Split a part's weights into two files with an index; `pieces` is the name of a file, with its number."""
    tensors, place = load_file(folder / name), (folder / name).parent
    (folder / name).unlink()
    files = {key: pieces.format(1 + number % 2) for number, key in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save({key: tensors[key] for key in files if files[key] == file}, place / file)
    (place / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))


def save_tensors(tensors: object, file: Path) -> None:
    assert isinstance(tensors, dict)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files_with_an_index_are_used(variant: str, folder: Path, sd1: Path, tmp_path: Path) -> None:
    for name in (UNET, TEXT):
        stem = Path(name).stem
        pieces = f"{stem}{variant}-0000{{}}-of-00002.safetensors"
        split_part(folder, name, f"{stem}.safetensors.index{variant}.json", pieces, save_tensors)
    assert not told(folder) and is_same_model(sd1, folder)
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    assert is_same_model(sd1, tmp_path / "converted")


def test_a_frozen_part_in_several_files_keeps_the_precision_that_holds_them_all(folder: Path) -> None:
    for name, file in ((TEXT, "model"), (VAE, "diffusion_pytorch_model")):
        save_file({key: t.half() for key, t in load_file(folder / name).items()}, folder / name, {"format": "pt"})
        split_part(folder, name, f"{file}.safetensors.index.json", f"{file}-{{}}.safetensors", save_tensors)
    source = open_folder(folder)
    assert (source.dtypes["text_encoder"], source.dtypes["vae"]) == (torch.float16, torch.float16)
    assert {tensor.dtype for tensor in source.read("vae").state_dict().values()} == {torch.float32}


def test_pickled_weights_in_several_files_are_converted(folder: Path, sd1: Path, tmp_path: Path) -> None:
    split_part(folder, TEXT, "pytorch_model.bin.index.json", "pytorch_model-0000{}-of-00002.bin", torch.save)
    split_part(folder, UNET, "diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model-{}.bin", torch.save)
    assert "only pytorch_model.bin.index.json is there" in told(folder)
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    assert is_same_model(sd1, tmp_path / "converted")
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_index_of_pickled_weights_names_no_file_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / TEXT).unlink()
    index = folder / "text_encoder/pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../other.bin"}}))
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 1
    assert "is not the name of a file beside it" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_text_encoder_is_used_by_either_name_of_its_tensors(prefix: str, folder: Path, sd1: Path) -> None:
    tensors = {prefix + key.removeprefix("text_model."): tensor for key, tensor in load_file(folder / TEXT).items()}
    save_file(tensors, folder / TEXT, {"format": "pt"})
    assert not told(folder) and is_same_model(sd1, folder)


def test_the_attention_of_a_vae_is_used_by_its_old_names(folder: Path, sd1: Path) -> None:
    tensors = with_old_attention_names(load_file(folder / VAE))
    assert "encoder.mid_block.attentions.0.query.weight" in tensors
    save_file(tensors, folder / VAE, {"format": "pt"})
    assert not told(folder) and is_same_model(sd1, folder)


@pytest.mark.parametrize("variant", ["non_ema", "bf16", "ema"])
def test_a_variant_is_used_where_nothing_else_is_there(variant: str, folder: Path, sd1: Path) -> None:
    (folder / UNET).rename(folder / UNET.replace(".safetensors", f".{variant}.safetensors"))
    assert is_same_model(sd1, folder)


def test_weights_of_an_unknown_name_are_named(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/mine.safetensors")
    assert "the weights are missing; the folder has mine.safetensors. Rename that file" in told(folder)


@pytest.mark.parametrize(
    ("place", "chosen", "inside"),
    [
        ("hub/models--x--sd/snapshots/abc", "hub/models--x--sd/snapshots", "abc"),
        ("hub/models--x--sd/snapshots/abc", "hub", "models--x--sd/snapshots/abc"),
    ],
)
def test_a_folder_of_the_hub_cache_names_the_one_inside_it(
    place: str, chosen: str, inside: str, sd1: Path, tmp_path: Path
) -> None:
    shutil.copytree(sd1, tmp_path / place)
    assert f"Did you mean {inside} inside it?" in told(tmp_path / chosen)


def test_a_models_folder_of_the_hub_cache_stands_for_the_download_of_its_main_branch(sd1: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--x--sd"
    for number, name in enumerate(("old", "main", "new")):
        shutil.copytree(sd1, cache / "snapshots" / name)
        os.utime(cache / "snapshots" / name, (number, number))
    newest = locate(str(cache))
    assert newest and newest.path == cache / "snapshots" / "new"
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("main")
    found = locate(str(cache))
    assert found and found.path == cache / "snapshots" / "main"
    assert f"Using the newest download in models--x--sd: {found.path}" in found.note
    (cache / "refs" / "main").write_text("../../elsewhere")
    assert locate(str(cache)) == newest


def test_a_download_of_a_single_file_stands_for_that_file(sd1: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--x--one" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copyfile(sd1 / UNET, snapshot / "one.safetensors")
    found = locate(str(tmp_path / "models--x--one"))
    assert found and found.path == snapshot / "one.safetensors"


def whole_clip(config: dict[str, object]) -> dict[str, object]:
    return {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": config, "projection_dim": 64}


def older_clip(config: dict[str, object]) -> dict[str, object]:
    return {**whole_clip(config), "text_config": None, "text_config_dict": config}


@pytest.mark.parametrize("wrap", [whole_clip, older_clip])
def test_the_config_of_a_whole_clip_is_unwrapped(
    wrap: Callable[[dict[str, object]], dict[str, object]], folder: Path, sd1: Path
) -> None:
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps(wrap(json.loads(config.read_text()))))
    assert is_same_model(sd1, folder)
    written = json.loads(open_folder(folder).small_files["text_encoder/config.json"])
    assert written["hidden_size"] == json.loads((sd1 / "text_encoder/config.json").read_text())["hidden_size"]


def test_a_frozen_part_keeps_the_precision_of_its_weights_whatever_comes_first(folder: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(folder / TEXT).items()}
    prefix = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    save_file({**tensors, f"{prefix}embeddings.position_ids": torch.arange(77)[None]}, folder / TEXT, {"format": "pt"})
    mixed = load_file(folder / VAE)
    first = min(mixed)
    save_file({name: t if name == first else t.half() for name, t in mixed.items()}, folder / VAE, {"format": "pt"})
    assert open_folder(folder).dtypes["text_encoder"] is torch.float16
    assert open_folder(folder).dtypes["vae"] is torch.float32  # so that none of its numbers changes
    model = load(open_base(folder, {}), trained=(), device=torch.device("cpu"), frozen_dtype=torch.float32)
    assert {tensor.dtype for tensor in model.parts["text_encoder"].saved().values() if tensor.is_floating_point()} == {
        torch.float16
    }


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_part_in_8_bits_is_trained_on_and_kept_as_fp16(kind: torch.dtype, folder: Path) -> None:
    tensors = {name: tensor.to(kind) for name, tensor in load_file(folder / UNET).items()}
    save_file(tensors, folder / UNET, {"format": "pt"})
    source = open_folder(folder)
    assert source.dtypes["unet"] is torch.float16
    assert torch.equal(source.read("unet").state_dict()["conv_in.weight"], tensors["conv_in.weight"].float())
