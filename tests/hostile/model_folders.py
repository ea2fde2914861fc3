"""The rest of the hostile base models: folders whose small files are missing, lie, or ask for code."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile.models import Model, Spoil

INDEX, UNET, VAE, TEXT = "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


def folder_models() -> Iterator[Model]:
    """Every case."""
    yield from _missing()
    yield from _indexes()
    yield from _configs()
    yield from _schedulers()
    yield from _tokenizers()


def _set(name: str, values: dict[str, Any]) -> Spoil:
    def spoil(folder: Path) -> Path:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))
        return folder

    return spoil


def _write(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder

    return spoil


def _without(*names: str) -> Spoil:
    def spoil(folder: Path) -> Path:
        for name in names:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        return folder

    return spoil


def _missing() -> Iterator[Model]:
    yield Model("gone", lambda folder: folder / "gone", "there is no such file or folder")
    yield Model("long-name", lambda folder: folder / ("x" * 300), "there is no such file or folder")
    yield Model("part-alone", lambda folder: folder / "unet", "only one part of a model .'UNet2DConditionModel'")
    yield Model("loop", _loop, "there is no such file or folder")
    yield Model(
        "nothing-in-it", _without("unet", "vae", "text_encoder", "tokenizer", "scheduler"), "(?s)unet.*vae.*tok"
    )
    yield Model("no-vae-no-tokenizer", _without("vae", "tokenizer"), "(?s)vae/config.json.*tokenizer/vocab.json.*vae/")
    for name, (tensors, words) in PIECES.items():
        yield Model(f"in-pieces-{name}", _in_pieces(tensors), words)
    yield Model("config-is-a-folder", _folder_as_file, "scheduler_config.json: the file is missing")


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


PIECE = "diffusion_pytorch_model-00001-of-00002.safetensors"
PIECES: dict[str, tuple[object, str]] = {
    "of-none": (None, "index.json: .*it lists no tensors"),
    "empty": ({}, "index.json: .*it lists no tensors"),
    "above": ({"conv_in.weight": "../../secret.safetensors"}, "is not the name of a file beside it"),
    "elsewhere": ({"conv_in.weight": "/etc/passwd"}, "is not the name of a file beside it"),
    "number": ({"conv_in.weight": 5}, "is not the name of a file beside it"),
    "script": ({"conv_in.weight": "run.py"}, "is not the name of a file beside it"),
    "missing-piece": ({"conv_in.weight": "unet-2.safetensors"}, "unet/unet-2.safetensors: it cannot be read"),
    "missing-tensor": ({"conv_in.wrong": PIECE}, "says that conv_in.wrong is in .*, which does not contain it"),
    "many": ({f"t{n}": f"p{n}.safetensors" for n in range(500)}, "it lists 500 files"),
}
"""The `weight_map` of an index, and what is said of it."""


def _in_pieces(tensors: object) -> Spoil:
    def spoil(folder: Path) -> Path:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name(PIECE))
        index = file.with_name("diffusion_pytorch_model.safetensors.index.json")
        index.write_text(json.dumps({"weight_map": tensors}))
        return folder

    return spoil


def _folder_as_file(folder: Path) -> Path:
    (folder / SCHEDULER).unlink()
    (folder / SCHEDULER).mkdir()
    return folder


def _indexes() -> Iterator[Model]:
    for name in ("FluxPipeline", "StableDiffusion3Pipeline", "x; import os"):
        yield Model(f"index-{name[:20]}", _set(INDEX, {"_class_name": name}), f"this is a {name}")
    foreign = {"unet": ["os", "system"], "vae": ["evil", "Code"], "scheduler": ["evil", "Code"], "x": ["y", "Z"]}
    yield Model("index-foreign-classes", _set(INDEX, foreign), "")
    yield Model("index-custom-pipeline", _set(INDEX, {"_class_name": ["evil", "Pipeline"]}), "this is a")
    contents = {"list": b"[]", "text": b'"x"', "cut": b'{"_class', "deep": b"[" * 90_000, "empty": b"", "nul": bytes(9)}
    for name, content in contents.items():
        yield Model(f"index-{name}", _write(INDEX, content), "model_index.json: invalid JSON")
        yield Model(f"config-{name}", _write(UNET, content), "unet/config.json: invalid JSON")
    yield Model("config-huge", _write(UNET, b" " * (17 << 20)), "larger than 16 MB")


def _configs() -> Iterator[Model]:
    wrong: dict[str, tuple[str, dict[str, Any], str]] = {
        "inpainting": (UNET, {"in_channels": 9}, "an inpainting model"),
        "odd-channels": (UNET, {"in_channels": [4]}, "a model with"),
        "controlnet": (UNET, {"_class_name": "ControlNetModel"}, "ControlNetModel"),
        "other-vae": (VAE, {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        "t5": (TEXT, {"model_type": "t5"}, "text encoder of type"),
        "code": (TEXT, {"auto_map": {"AutoModel": "evil.Model"}}, "asks for code"),
        "attention-from-elsewhere": (TEXT, {"_attn_implementation": "evil/kernel"}, "asks for code"),
        "quantized": (UNET, {"quantization_config": {"load_in_4bit": True}}, "asks for code or a library"),
        "wide": (UNET, {"block_out_channels": [10**9, 10**9]}, "which no network has"),
        "wide-but-possible": (UNET, {"block_out_channels": [32_000, 32_000]}, "do not belong together"),
        "many-layers": (UNET, {"layers_per_block": 10**6}, "which no network has"),
        "many-text-layers": (TEXT, {"num_hidden_layers": 10**8}, "which no network has"),
        "more-layers": (TEXT, {"num_hidden_layers": 90}, "do not belong together"),
        "one-more-layer": (TEXT, {"num_hidden_layers": 3}, "text_encoder: .*missing"),
        "large-vocabulary": (TEXT, {"vocab_size": 900_000}, "do not belong together"),
        "small-vocabulary": (TEXT, {"vocab_size": 10}, "text_encoder|tokenizer"),
        "other-width": (TEXT, {"hidden_size": 64}, "different models"),
        "width-as-list": (TEXT, {"hidden_size": [32]}, "different models"),
        "sdxl-width": (UNET, {"cross_attention_dim": 2048}, "takes text of width 2048"),
        "no-groups": (UNET, {"norm_num_groups": 0}, "unet/config.json: no network can be built"),
        "text-as-number": (UNET, {"layers_per_block": "two"}, "unet/config.json: no network can be built"),
        "unknown-blocks": (UNET, {"down_block_types": ["Evil", "Evil"]}, "unet/config.json: no network can be built"),
        "no-latents": (VAE, {"latent_channels": 0}, "vae"),
        "infinite": (VAE, {"scaling_factor": 1e999}, "which no network has"),
        "long-list": (VAE, {"block_out_channels": [8] * 500}, "more than a network can have"),
    }
    for name, (file, values, words) in wrong.items():
        yield Model(f"config-{name}", _set(file, values), words)


def _schedulers() -> Iterator[Model]:
    wrong: dict[str, dict[str, Any]] = {
        "many-steps": {"num_train_timesteps": 10**12},
        "no-steps": {"num_train_timesteps": 0},
        "text": {"num_train_timesteps": "1000"},
        "betas": {"trained_betas": "no"},
        "betas-of-nothing": {"trained_betas": []},
        "negative-betas": {"beta_start": -5.0},
        "endless-betas": {"beta_end": 1e999},
        "long-betas": {"beta_end": 10**400},
        "unknown-betas": {"beta_schedule": "evil"},
        "sample": {"prediction_type": "sample"},
        "edm": {"_class_name": "EDMDPMSolverMultistepScheduler"},
        "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    }
    for name, values in wrong.items():
        yield Model(f"scheduler-{name}", _set(SCHEDULER, values), "scheduler/scheduler_config.json")


def _vocabulary(content: bytes) -> Spoil:
    def spoil(folder: Path) -> Path:
        (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
        (folder / "tokenizer" / "vocab.json").write_bytes(content)
        return folder

    return spoil


def _tokenizers() -> Iterator[Model]:
    yield Model("tokenizer-no-json", _write("tokenizer/vocab.json", b"{"), "tokenizer/vocab.json: invalid JSON")
    yield Model("tokenizer-list", _write("tokenizer/vocab.json", b"[]"), "tokenizer")
    whole = {"empty": b"{}", "odd": b'{"version": 5}', "model": b'{"model": {"type": "Evil"}}'}
    for name, content in whole.items():
        yield Model(f"tokenizer-{name}", _write("tokenizer/tokenizer.json", content), "tokenizer: it cannot be used")
    # Without tokenizer.json the other two count.
    large = json.dumps({f"word{number}": number for number in range(60_000)}).encode()
    parts = {"empty": b"{}", "odd": b'{"a": "b"}', "of-another": large}
    for name, content in parts.items():
        yield Model(f"vocabulary-{name}", _vocabulary(content), "tokenizer: it")
    yield Model("tokenizer-endless", _set("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}), "")
    code = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "evil.Tok"}
    yield Model("tokenizer-code", _set("tokenizer/tokenizer_config.json", code), "")
