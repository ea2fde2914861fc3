"""Measure the memory of a LoRA run of a model of full size on the CPU.

    python scripts/measure_lora.py [family] [--dtype bf16|fp32] [--base MODEL] [--resolution 256] [--folder FOLDER]
                                   [setting ...]

Writes a base model with random weights (scripts/full_size.py) unless one is given, trains a LoRA of it for one step in
its own program, with its samples off, its checkpoint and its single file on, and prints the most memory that it held.
Everything is written to a temporary folder, by default in the system's: 2 to 4 GB for SD 1.x. Any setting can be added,
such as --gradient_checkpointing. Needs Linux or macOS.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from ed2.models.families.facts import FACTS  # noqa: E402

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of `ru_maxrss`."""


def main() -> int:
    """Print the figure; the exit code is that of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", default="sd1", choices=tuple(FACTS))
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"), help="of the base model's file")
    parser.add_argument("--base", type=Path, help="model to use in place of one of full size that is written here")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--folder", help="folder for the temporary files")
    options, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        base = options.base or folder / "base"
        if not options.base:  # in a program of its own, so that its memory is not counted
            writing = [sys.executable, ROOT / "scripts" / "full_size.py", options.family, base]
            subprocess.run([*writing, "--dtype", options.dtype], check=True, stdout=subprocess.DEVNULL)
        (folder / "images").mkdir()
        Image.radial_gradient("L").convert("RGB").resize((options.resolution,) * 2).save(folder / "images" / "a.png")
        began = time.monotonic()
        training = subprocess.Popen(command(folder, base.absolute(), options.resolution, settings), cwd=folder)
        _, status, used = os.wait4(training.pid, 0)
        seconds = time.monotonic() - began
        code = training.returncode = os.waitstatus_to_exitcode(status)
        single = [path.stat().st_size for path in (folder / "files").glob("*.safetensors")]
    gigabytes = used.ru_maxrss * UNIT / 2**30
    print(
        f"{FACTS[options.family].title}, LoRA at {options.resolution}, base in {options.dtype}: "
        f"at most {gigabytes:.2f} GB of memory, {seconds:.0f} s; single file of {sum(single) / 2**20:.0f} MB"
    )
    return code


def command(folder: Path, base: Path, resolution: int, settings: list[str]) -> list[str]:
    """A run of one step."""
    flags = {
        "method": "lora", "resume_ckpt": base, "data_root": folder / "images", "resolution": resolution,
        "batch_size": 1, "max_epochs": 1, "sample_prompts": "none", "device": "cpu", "logdir": folder / "logs",
        "save_ckpt_dir": folder / "files", "project_name": "measure",
    }  # fmt: skip
    given = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return [sys.executable, str(ROOT / "train.py"), *given, *settings]


if __name__ == "__main__":
    sys.exit(main())
