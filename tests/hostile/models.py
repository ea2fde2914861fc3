"""More than 60 base models that are damaged, of another kind, or made to harm, each with what is expected of it.

A case is a function that spoils a folder of a whole tiny model, or that writes a single file into an empty folder, and
returns what is to be opened.
"""

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Spoil = Callable[[Path], Path]


@dataclass(frozen=True)
class Model:
    """One hostile model.

    Attributes:
        spoil: gets a copy of a whole folder (or an empty one) and returns what to open.
        expected: what the program's words have to match; empty where it is to be accepted.
        is_file: whether it wants an empty folder.
    """

    name: str
    spoil: Spoil
    expected: str
    is_file: bool = False


class Bomb:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("pwned").write_text, ("",))


def all_models() -> Iterator[Model]:
    """Every case."""
    yield from _other_contents()
    yield from _headers()
    yield from _other_kinds()
    yield from _pickles()
    yield from _spoilt_weights()


def _other_contents() -> Iterator[Model]:
    """Files that are no safetensors, alone and as a part of a folder."""
    contents = {
        "empty": (b"", "the file is empty"),
        "zeros": (bytes(5000), "only zeros"),
        "one-byte": (b"\x80", "cut short"),
        "page": (b"<!DOCTYPE html><html>Sign in</html>", r"web page \(HTML\)"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265146304\n", "Git LFS pointer"),
        "zip": (b"PK\x03\x04" + bytes(100), "ZIP file"),
        "pickle": (pickle.dumps(Bomb(), protocol=2), "pickle"),
        "gguf": (b"GGUF\3\0\0\0" + bytes(100), "GGUF"),
        "error": (b'{"error": "Invalid username or password."}', "a text file"),
        "text": (b"not found, sorry for that", r"this is not a safetensors file\. Get"),
        "random": (bytes(range(1, 256)) * 20, r"this is not a safetensors file\. Get"),
    }
    for name, (content, words) in contents.items():
        alone = "can run code, so it is not opened" if name in ("zip", "pickle") else words
        yield Model(f"{name}.safetensors", _written(content), alone, is_file=True)
        yield Model(f"unet-is-{name}", _replaced(UNET, content), f"{UNET}: .*{words}")


def header(tensors: dict[str, object], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _headers() -> Iterator[Model]:
    """Headers that lie."""
    four = bytes(16)
    good = header({"a": tensor([4], 0, 16)}, four)
    twice = (
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    )
    lies = {
        "good-but-no-model": (good, "not those of any known kind of model"),
        "cut": (good[:-1], "1 of 16 bytes of its tensors are missing"),
        "longer": (good + b"x", "1 bytes longer than its header says"),
        "cut-header": (good[:40], "cut short"),
        "ten-gigabytes": (header({"a": 1}, length=10 << 30), "header would have 10,737,418,240 bytes"),
        "two-to-the-62": (header({"a": 1}, length=2**62), "not a safetensors file"),
        "no-json": (struct.pack("<Q", 16) + b"{ not json at all" + four, "invalid JSON"),
        "deep": (struct.pack("<Q", 20_000) + b'{"a":' * 4000, "invalid JSON"),
        "list": (struct.pack("<Q", 2) + b"[]", "no tensors"),
        "no-tensors": (header({}), "no tensors"),
        "only-metadata": (header({"__metadata__": {"format": "pt"}}), "no tensors"),
        "odd-metadata": (
            header({"__metadata__": [1], "a": tensor([4], 0, 16)}, four),
            "not those of any known kind of model",
        ),
        "two-of-a-name": (struct.pack("<Q", len(twice)) + twice + four, "two of its tensors are called a"),
        "overlap": (header({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}, four), "overlaps another"),
        "gap": (header({"a": tensor([4], 0, 16), "b": tensor([4], 20, 36)}, bytes(36)), "has a gap"),
        "backwards": (header({"a": tensor([4], 16, 0)}, four), "do not fit its shape"),
        "before-the-file": (header({"a": tensor([4], -16, 0)}, four), "do not fit its shape"),
        "beyond-the-file": (header({"a": tensor([10**9], 0, 4 * 10**9)}, four), "are missing"),
        "other-size": (header({"a": tensor([5], 0, 16)}, four), "do not fit its shape"),
        "overflow": (header({"a": tensor([2**32, 2**32], 0, 16)}, four), "do not fit its shape"),
        "negative": (header({"a": tensor([-4], 0, 16)}, four), r"has the shape \[-4\]"),
        "many-sides": (header({"a": tensor([1] * 2000, 0, 4)}, bytes(4)), "has the shape"),
        "half-numbers": (header({"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}, four), "shape"),
        "unknown-kind": (header({"a": tensor([4], 0, 16, "F99")}, four), "F99"),
        "no-entry": (header({"a": 5}, four), "its entry for a is 5"),
        "no-place": (header({"a": {"dtype": "F32", "shape": [4]}}, four), "its entry for a"),
        "many-tensors": (header({f"t{n}": tensor([0], 0, 0) for n in range(10_001)}), "10,001 tensors"),
        "long-name": (header({"x" * 100_000: 5}), "its entry for x"),
        "surrogate-name": (header({"\ud800": 5}), r"its entry for \\ud800"),
    }
    for name, (content, words) in lies.items():
        yield Model(f"header-{name}.safetensors", _written(content), words, is_file=True)


def _other_kinds() -> Iterator[Model]:
    """Whole files of something else, told by the names of their tensors."""
    unet, width = "model.diffusion_model.", (8, 8)
    conv, key = f"{unet}input_blocks.0.0.weight", f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    kinds: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
        "lora": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": width}, "a LoRA"),
        "lora-peft": ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": width}, "a LoRA"),
        "locon": ({"lora_te_text_model_encoder_layers_0.hada_w1_a": width}, "a LoRA"),
        "embedding": ({"emb_params": (4, 768)}, "a textual inversion embedding"),
        "embedding-xl": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "a textual inversion embedding"),
        "vae": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}, "only a VAE"),
        "vae-in-place": ({"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)}, "only a VAE"),
        "text-encoder": ({"text_model.embeddings.token_embedding.weight": width}, "only a text encoder"),
        "diffusers-unet": ({"down_blocks.0.resnets.0.conv1.weight": width}, "only the UNet of a diffusers folder"),
        "controlnet": ({"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}, "a ControlNet"),
        "controlnet-new": ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}, "a ControlNet"),
        "sdxl": (
            {conv: (8, 4, 3, 3), "conditioner.embedders.1.model.ln_final.weight": (8,)},
            "it has no VAE and no text encoder.",
        ),
        "sdxl-unet": (
            {conv: (8, 4, 3, 3), key: (8, 2048)},
            "no VAE, no text encoder and no second text encoder",
        ),
        "edm-v": ({conv: (8, 4, 3, 3), key: (8, 2048), "edm_vpred.sigma_max": (1,)}, "another kind of noise .EDM"),
        "edm": ({conv: (8, 4, 3, 3), key: (8, 2048), "edm_mean": (4,), "edm_std": (4,)}, "another kind of noise .EDM"),
        "refiner": ({conv: (8, 4, 3, 3), key: (8, 1280)}, "the refiner of SDXL"),
        "flux": ({"double_blocks.0.img_attn.proj.weight": width}, "a Flux model"),
        "sd3": ({"model.diffusion_model.joint_blocks.0.x.weight": width}, "an SD 3 model"),
        "inpainting": ({conv: (8, 9, 3, 3), key: (8, 768)}, "an inpainting model"),
        "pix2pix": ({conv: (8, 8, 3, 3), key: (8, 768)}, "an InstructPix2Pix model"),
        "depth": ({conv: (8, 5, 3, 3), key: (8, 1024)}, "a depth model"),
        "upscaler": ({conv: (8, 7, 3, 3), key: (8, 1024)}, "an upscaler"),
        "unclip": ({"noise_augmentor.data_mean": (8,)}, "an unCLIP model"),
        "language-model": ({"model.layers.0.self_attn.q_proj.weight": width}, "not those of any known kind of model"),
        "unet-only": ({conv: (8, 4, 3, 3), key: (8, 768)}, "it has no VAE and no text encoder"),
    }
    for name, (shapes, words) in kinds.items():
        content = {key: torch.ones(shape) for key, shape in shapes.items()}
        yield Model(f"kind-{name}.safetensors", _saved(content), words, is_file=True)
        if name in ("lora", "vae", "controlnet", "embedding", "flux"):
            yield Model(f"unet-is-{name}", _as_part(UNET, content), f"{UNET}: this is {words}")


def _pickles() -> Iterator[Model]:
    for suffix in ("ckpt", "pt", "pth", "bin"):
        yield Model(f"code.{suffix}", _written(pickle.dumps(Bomb())), "can run code, so it is not opened", is_file=True)
    yield Model("model.zip", _written(b"PK\x03\x04"), "it is not a Stable Diffusion model", is_file=True)
    yield Model("unet-is-bin", _only_bin, "only diffusion_pytorch_model.bin is there, in a format that can run code")


def _spoilt_weights() -> Iterator[Model]:
    for part, file in {"unet": UNET, "vae": VAE, "text_encoder": TEXT}.items():
        yield Model(
            f"{part}-nan",
            _changed(file, lambda t: t.index_fill_(0, torch.tensor([0]), torch.nan)),
            f"{part}: .*not finite",
        )
        yield Model(
            f"{part}-inf",
            _changed(file, lambda t: t.index_fill_(0, torch.tensor([0]), torch.inf)),
            f"{part}: .*not finite",
        )
        yield Model(f"{part}-zero", _changed(file, torch.Tensor.zero_), f"{part}: .*only zeros")
        yield Model(f"{part}-cut", _cut(file), f"{file}: the file is cut short")
        yield Model(f"{part}-without-one", _without_one(file), f"{part}: .*missing, or of another shape")
        yield Model(
            f"{part}-other-shape", _other_shape(file), f"{part}: .*(missing, or of another shape|belong together)"
        )


def _written(content: bytes) -> Spoil:
    def spoil(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return spoil


def _saved(tensors: dict[str, torch.Tensor]) -> Spoil:
    def spoil(path: Path) -> Path:
        save_file(tensors, path)
        return path

    return spoil


def _replaced(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder

    return spoil


def _as_part(name: str, tensors: dict[str, torch.Tensor]) -> Spoil:
    def spoil(folder: Path) -> Path:
        save_file(tensors, folder / name)
        return folder

    return spoil


def _changed(name: str, change: Callable[[torch.Tensor], object]) -> Spoil:
    """Change one tensor for a fault that one shows, all of them where they are to be zero."""

    def spoil(folder: Path) -> Path:
        tensors = load_file(folder / name)
        chosen = list(tensors) if change is torch.Tensor.zero_ else sorted(tensors)[-1:]
        for key in chosen:
            change(tensors[key])
        save_file(tensors, folder / name, {"format": "pt"})
        return folder

    return spoil


def _cut(name: str) -> Spoil:
    def spoil(folder: Path) -> Path:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
        return folder

    return spoil


def _without_one(name: str) -> Spoil:
    def spoil(folder: Path) -> Path:
        tensors = load_file(folder / name)
        tensors.pop(sorted(tensors)[-1])
        save_file(tensors, folder / name, {"format": "pt"})
        return folder

    return spoil


def _other_shape(name: str) -> Spoil:
    def spoil(folder: Path) -> Path:
        tensors = load_file(folder / name)
        key = max(tensors, key=lambda k: tensors[k].numel())
        tensors[key] = torch.ones(3, 3)
        save_file(tensors, folder / name, {"format": "pt"})
        return folder

    return spoil


def _only_bin(folder: Path) -> Path:
    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    return folder
