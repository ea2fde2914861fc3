"""Every kind of file that the program reads from others or from its own past, and how it reads it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from ed2.app.checks.check import check_dataset
from ed2.app.measured import Corrections
from ed2.app.reporters.jsonl import cut_back, read_events
from ed2.app.run_settings import newest_state
from ed2.app.runs.records import find_runs
from ed2.app.user_files import UserFiles
from ed2.checkpoint.resume import newest_below
from ed2.checkpoint.run_lock import HOLDER_FILE, _holder, only_trainer
from ed2.data.folder import ScanOptions, scan
from ed2.data.image_config import ImageConfig
from ed2.data.images import check_image, decode, header_size
from ed2.data.reading import ImageIndex
from ed2.data.sidecars import describe_image, read_folder_file
from ed2.errors import Ed2Error
from ed2.events import RunStarted
from ed2.models.files.folder import open_folder
from ed2.models.files.header import read_header
from ed2.models.files.layout import single_file_tensors
from ed2.models.files.source import open_base
from ed2.sampling.prompt import Prompt
from ed2.sampling.prompts import PromptFile
from ed2.sampling.sheet import contact_sheet
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.vram.overhead import Reading
from tests.hostile.painting import FORMATS, noise, saved
from tests.past_runs import write_sample
from tests.resolved import resolved
from tests.runs import Trained

YAML = b"""main_prompt: a red cat
tags:
  - tag: fluffy
    weight: 0.5
  - on a mat
multiply: 2.5
flip_p: 0.5
shuffle_tags: yes
max_caption_length: 100
"""
PROMPTS = b'{"batch_size": 2, "samples": [{"prompt": "a cat", "size": [64, 64], "cfgs": [1, 7.5], "seed": 5}]}'
OPTIMIZER = (
    b'{"base": {"optimizer": "adamw", "lr": 1e-6, "betas": [0.9, 0.99]}, "text_encoder_overrides": {"lr": 5e-7}}'
)
SETTINGS = (
    b'{"project_name": "cats", "max_epochs": 10, "lr": 1e-6, "data_root": ["a"], "betas": [0.9, 0.9], "amp": true}'
)


@dataclass(frozen=True)
class Target:
    """A file to spoil, and a reading of it that may end in nothing but an `Ed2Error`."""

    name: str
    path: Path
    read: Callable[[], object]
    content: bytes


def tried(target: Target, content: bytes) -> BaseException | None:
    """Read a spoilt file, and put the whole one back; what comes out of it that should not."""
    target.path.write_bytes(content)
    try:
        _told(target)
    except Exception as error:
        return error
    finally:
        target.path.write_bytes(target.content)
    return None


def _told(target: Target) -> None:
    """Read a file; where that ends in an error that tells what is wrong, its text can be printed."""
    try:
        target.read()
    except Ed2Error as error:
        str(error).encode()


def all_targets(folder: Path, model: Path, trained: Trained) -> Iterator[Target]:
    """Every kind of file, each in a place of its own below `folder`."""
    yield from _images(folder)
    yield from _small_files(folder)
    yield from _models(folder, model)
    yield from _runs(folder, trained)


def _target(name: str, path: Path, read: Callable[[], object], content: bytes | None = None) -> Target:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    return Target(name, path, read, path.read_bytes())


def _images(folder: Path) -> Iterator[Target]:
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = {kind: saved(noise(), kind, exif=exif) for kind in FORMATS if kind not in ("BMP", "GIF")}
    contents |= {kind: saved(noise(), kind) for kind in ("BMP", "GIF")}
    contents |= {"deep PNG": saved(deep, "PNG"), "palette PNG": saved(noise().quantize(9), "PNG", transparency=3)}
    contents |= {"moving WEBP": saved(noise(), "WEBP", save_all=True, append_images=[noise(seed=2)])}
    for name, content in contents.items():
        path = folder / f"{name}.png"

        def read(path: Path = path) -> None:
            header_size(path)
            if check_image(path).problem is None:
                decode(path, at_least=(32, 32))

        yield _target(f"image {name}", path, read, content)


def _small_files(folder: Path) -> Iterator[Target]:
    text = "ein Kätzchen, größer, fluffy".encode()
    for name, content in {"a.txt": text, "a.caption": text.decode().encode("utf-16"), "a.yaml": YAML}.items():
        path = folder / "captions" / name
        yield _target(
            name, path, lambda path=path: describe_image(path.with_suffix(".png"), ImageConfig(), [path]), content
        )
    local = folder / "captions" / "local.yaml"
    yield _target("local.yaml", local, lambda: read_folder_file(local), YAML)
    images = folder / "listed"
    images.mkdir()
    noise().save(images / "cat.png")
    manifest = images / "all.json"
    options = ScanOptions(resolution=64, index_path=folder / "index.json")
    listed = b'[{"image": "cat.png", "caption": "a cat", "multiply": 2, "tags": ["a", {"tag": "b", "weight": 2}]}]'
    yield _target("manifest", manifest, lambda: scan([manifest], options), listed)
    scan([images], options)
    index = folder / "index.json"
    yield _target("index", index, lambda: (ImageIndex(index), scan([images], options)))
    for name, content in {"settings": SETTINGS, "optimizer": OPTIMIZER}.items():
        path = folder / "settings" / f"{name}.json"
        main = folder / "settings" / "main.json"
        main.parent.mkdir(exist_ok=True)
        main.write_text('{"optimizer_config": "optimizer.json"}')
        config = main if name == "optimizer" else path
        yield _target(f"{name}.json", path, lambda config=config: with_defaults(gather({}, config).values), content)
    for suffix, content in {".json": PROMPTS, ".txt": "a cat\n# no\nein Kätzchen\n".encode()}.items():
        path = folder / f"prompts{suffix}"
        file = PromptFile(path, seed=1, resolution=64)
        yield _target(f"prompts{suffix}", path, file.read, content)
    draft = folder / "user" / "draft.json"
    yield _target("draft", draft, UserFiles(folder / "user").draft, SETTINGS)


def _models(folder: Path, model: Path) -> Iterator[Target]:
    source = open_folder(model)
    parts = {part: source.read(part).state_dict() for part in source.weights}
    single = folder / "model.safetensors"
    tensors = single_file_tensors("sd1", parts)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, single, {"format": "pt"})
    yield _target("single file", single, lambda: (read_header(single), open_base(single, {})))
    copy = shutil.copytree(model, folder / "model")
    names = ("model_index.json", "unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
    for name in names:
        yield _target(f"model {name}", copy / name, lambda: _opened(copy))
    yield _target(
        "tokenizer", copy / "tokenizer" / "tokenizer_config.json", lambda: open_base(copy, {}).tokenizer("tokenizer")
    )
    vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
    yield _target("model vae", vae, lambda: open_base(copy, {}))


def _opened(model: Path) -> None:
    """Open a folder and make its networks, on no memory."""
    source = open_folder(model)
    for part in ("unet", "text_encoder"):
        source.config_problem(part)
    open_base(model, {})


def _runs(folder: Path, trained: Trained) -> Iterator[Target]:
    run_dir = shutil.copytree(trained.run_dir, folder / "logs" / trained.run_dir.name)
    checkpoint = run_dir / "ckpts" / trained.checkpoint.name
    dataset = scan([Path(root) for root in trained.of(RunStarted)[0].config["data_root"]], ScanOptions(resolution=64))
    flags: dict[str, object] = {"resume_ckpt": str(checkpoint), "logdir": str(folder / "logs"), "max_epochs": 9}

    def continued() -> None:
        check_dataset(resolved(flags, dataset=dataset).settings, dataset)

    small = [path for path in sorted(checkpoint.rglob("*.json")) if "tokenizer" not in path.parts]
    small += [run_dir / name for name in ("settings.json", "manifest.json", "pictures.json")]
    state = next(iter(sorted(checkpoint.glob("training_state/*.safetensors"))))
    for path in (*small, state):
        yield _target(
            f"run {path.relative_to(run_dir.parent.parent / run_dir.parent.name / run_dir.name)}", path, continued
        )
    events, samples, logdir = run_dir / "events.jsonl", run_dir / "samples.jsonl", folder / "logs"
    yield _target("events", events, lambda: (list(read_events(run_dir)), find_runs(logdir), cut_back(events, 1)))
    prompt = Prompt(0, "a cat", seed=5, size=(64, 64), cfgs=(7.5,))
    write_sample(run_dir, step=1, prompt=prompt, tiles=[noise()])
    yield _target("samples", samples, lambda: (contact_sheet(run_dir), cut_back(samples, 1)))
    yield _target("holder", run_dir / HOLDER_FILE, lambda: _holder(run_dir), b'{"pid": 5, "started_at": "today"}')
    yield _target("corrections", folder / "cards.json", _corrections(folder / "cards.json"))
    for name in ("manifest.json", "training_state/state.json"):
        yield _target(f"findlast {name}", checkpoint / name, lambda: _find_last(logdir, run_dir))


def _corrections(file: Path) -> Callable[[], object]:
    """Measure something on a card, so that the file is there, and give how it is read."""
    corrections = Corrections(file)
    corrections.add("card", Reading(1.0, 2.0, 3.0))
    return lambda: corrections.overhead("card")


def _find_last(logdir: Path, run_dir: Path) -> None:
    """Look for the newest checkpoint while its run is trained, so that a damaged one keeps its name."""
    newest_state(logdir)
    find_runs(logdir)
    with only_trainer(run_dir):
        newest_below(logdir)
