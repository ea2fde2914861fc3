"""`python -m ed2 merge`: a LoRA added to the weights of a model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ed2.app.command_line import PRECISIONS, CommandSyntax, number
from ed2.app.libraries import read_libraries
from ed2.disk import require_temporary_folder
from ed2.errors import printable
from ed2.terminal import LAUNCHER
from ed2.text import counted, first_of

MAX_WEIGHT = 10
MAX_NAMES = 3
COMMAND = CommandSyntax(
    use=f"{LAUNCHER} merge BASE LORA TARGET",
    help="""\
[--weight 1.0] [--export_dtype fp16|bf16|fp32]

Add a LoRA to the model BASE and write the sum as TARGET, a .safetensors, .sft or .ckpt file if it ends that way, else a
diffusers folder. LORA may come from this program, kohya's scripts or diffusers. --weight multiplies it.""",
    needs="three paths",
    count=[3],
    flags={
        "weight": {"type": number(-MAX_WEIGHT, MAX_WEIGHT, float), "default": 1.0},
        "export_dtype": {"choices": PRECISIONS},
    },
)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line."""
    return COMMAND.run(argv, _merge)


def _merge(given: argparse.Namespace) -> None:
    require_temporary_folder()
    read_libraries()
    from ed2.app.lora.tools import merge_lora
    from ed2.models.compute import DTYPES

    base, lora, target = map(Path, given.words)
    dtype = DTYPES[given.export_dtype] if given.export_dtype else None
    done = merge_lora(base, lora, target, given.weight, dtype=dtype)
    if done.left_out:
        names = first_of(list(map(printable, done.left_out)), MAX_NAMES)
        sys.stdout.write(f"Left out, since the model has no such layer: {names}\n")
    sys.stdout.write(f"Added {counted(done.num_layers, 'layer')}. Wrote {target}\n")
