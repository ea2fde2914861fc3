"""Measure how long a checkpoint keeps the training waiting, and what it leaves in memory.

    python scripts/measure_save.py [folder] [--width 448] [--single_file]

Makes a model of 200 million random weights, trains one step with AdamW, and saves it three times the way a run does (a
copy, then a thread) and three times without a copy (as where memory is short), comparing the bytes. Works in a
temporary folder in `folder`, by default the system's. A smaller width makes a smaller model. --single_file
writes single files as well.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ed2.models.compute import quiet_libraries  # noqa: E402

quiet_libraries()  # before they are read

import psutil  # noqa: E402
import torch  # noqa: E402
from diffusers import UNet2DConditionModel  # noqa: E402

from ed2.app.build import build  # noqa: E402
from ed2.app.jobs import RunContext, make_saver  # noqa: E402
from ed2.app.resolve import resolve  # noqa: E402
from ed2.app.runs.folder import RunFolder, make_run_folder  # noqa: E402
from ed2.checkpoint.background import BackgroundSaver  # noqa: E402
from ed2.checkpoint.identity import read_manifest  # noqa: E402
from ed2.checkpoint.snapshot import bytes_to_copy  # noqa: E402
from ed2.events import CheckpointSaved, Event, EventBus, Warned  # noqa: E402
from ed2.training.controls import Controls  # noqa: E402
from ed2.training.loop import optimizer_step  # noqa: E402
from ed2.training.state import Run  # noqa: E402
from tests.tiny import make_images, make_model  # noqa: E402

SAVES = 3
WIDTH = 448
"""Channels of the UNet's first block, for about 200 million weights."""


def larger_model(folder: Path, width: int) -> Path:
    """The tests' tiny model with a larger UNet in place of its own."""
    make_model(folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"block_out_channels": [width, 2 * width], "layers_per_block": 2, "norm_num_groups": 32}
    for file in (folder / "unet").iterdir():
        file.unlink()
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


def built(folder: Path, width: int, bus: EventBus, *, single_file: bool) -> tuple[Run, BackgroundSaver]:
    """A run of that model that has made one step."""
    values = {
        "project_name": "measure", "resume_ckpt": str(larger_model(folder / "model", width)), "resolution": 64,
        "data_root": [str(make_images(folder / "images", [(64, 64)]))], "logdir": str(folder / "logs"),
        "optimizer": "adamw", "disable_textenc_training": True, "batch_size": 1, "keep_last": 2,
        "no_save_ckpt": not single_file, "save_ckpt_dir": str(folder / "files"),
    }  # fmt: skip
    spec = resolve(values, None, bus=bus, controls=Controls())
    run_dir = make_run_folder(spec)
    RunFolder(run_dir, bus, renew_lock=lambda: None).describe(spec)
    saver = BackgroundSaver(make_saver(spec, run_dir, bus, before_save=lambda step: None), bus)
    run = build(spec, RunContext.of(spec, run_dir, saver, bus, Controls()))
    optimizer_step(run, next(iter(run.data.groups(0))))
    run.state.step = 1
    return run, saver


def hashes(checkpoint: Path) -> tuple[str, ...]:
    """The hashes of a checkpoint's tensor files."""
    files = read_manifest(checkpoint)["files"]
    return tuple(record["sha256"] for name, record in sorted(files.items()) if name.endswith(".safetensors"))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="folder for the temporary files")
    parser.add_argument("--width", type=int, default=WIDTH, help="channels of the first block, a multiple of 32")
    parser.add_argument("--single_file", action="store_true", help="write single files too")
    options = parser.parse_args()
    saved: list[CheckpointSaved] = []

    def listen(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            saved.append(event)
        if isinstance(event, Warned):
            print(event.text)

    bus = EventBus([listen])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run, saver = built(Path(folder), options.width, bus, single_file=options.single_file)
        weights = sum(p.numel() for p in run.model.unet.parameters())
        print(f"{weights / 1e6:.0f} million weights; {bytes_to_copy(run) / 1e9:.2f} GB of weights and optimizer state")
        memory = psutil.Process().memory_info
        for with_copy in (True, False):
            waits, wholes = [], []
            for _ in range(SAVES):
                run.state.step += 1
                began = time.perf_counter()
                if with_copy:
                    saver.start(run)
                else:
                    bus.emit(saver.saver.save(run))
                waits.append(time.perf_counter() - began)
                saver.join()
                wholes.append(time.perf_counter() - began)
            print(
                f"{'copy and thread' if with_copy else 'without a copy'}: the training waits {min(waits):.2f} s, "
                f"the save takes {min(wholes):.2f} s; {memory().rss / 1e9:.2f} GB in memory after {SAVES} saves"
            )
        same = len({hashes(event.path) for event in saved if event.path.exists()}) == 1
        print(f"the same bytes: {same}; PyTorch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
