"""`python -m ed2 extract-lora`: what training changed in a model, as a LoRA; and `merge`: a LoRA added to a model."""

import argparse
import sys
from pathlib import Path

from ed2.app.command_line import PRECISIONS, CommandSyntax, number
from ed2.app.libraries import read_libraries
from ed2.disk import require_temporary_folder
from ed2.errors import printable
from ed2.models.lora.names import LAYERS
from ed2.terminal import LAUNCHER
from ed2.text import counted, first_of

DEFAULT_RANK, MAX_RANK = 32, 1024
MAX_WEIGHT = 10
MAX_NAMES = 3


def _extract(given: argparse.Namespace) -> None:
    require_temporary_folder()
    read_libraries()
    from ed2.app.lora import LoraTarget, extract_lora
    from ed2.models.compute import DTYPES
    from ed2.models.lora.arithmetic import RankOptions

    base, tuned, target = map(Path, given.words)
    options = RankOptions(given.rank, given.keep, given.lora_layers)
    written = extract_lora(base, tuned, LoraTarget(target, DTYPES[given.export_dtype]), options, _report)
    for sentence in written.sentences():
        _say(sentence)
    _say(f"Wrote {written.path}")


def _report(title: str, done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        _say(f"{title[0].upper()}{title[1:]}: {done} of {total} layers.")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _merge(given: argparse.Namespace) -> None:
    require_temporary_folder()
    read_libraries()
    from ed2.app.lora import merge_lora
    from ed2.models.compute import DTYPES

    base, lora, target = map(Path, given.words)
    dtype = DTYPES[given.export_dtype] if given.export_dtype else None
    done = merge_lora(base, lora, target, given.weight, dtype=dtype)
    if done.left_out:
        names = first_of(list(map(printable, done.left_out)), MAX_NAMES)
        sys.stdout.write(f"Left out, since the model has no such layer: {names}\n")
    sys.stdout.write(f"Added {counted(done.num_layers, 'layer')}. Wrote {target}\n")


EXTRACT = CommandSyntax(
    use=f"{LAUNCHER} extract-lora BASE MODEL TARGET",
    help="""\
[--rank 32] [--keep 0.9] [--lora_layers all|linear|attention] [--export_dtype fp16|bf16|fp32]

Write what training changed in MODEL, which began as BASE, as a LoRA: a .safetensors file that web UIs add to BASE. Each
is a diffusers folder, a checkpoint of a run or a single file. A higher --rank keeps more and makes a larger file;
--keep gives each layer the lowest rank, up to --rank, that keeps this part of its change.""",
    needs="three paths",
    count=[3],
    flags={
        "rank": {"type": number(1, MAX_RANK, int), "default": DEFAULT_RANK},
        "keep": {"type": number(0, 1, float), "default": 1.0},
        "lora_layers": {"choices": tuple(LAYERS), "default": "all"},
        "export_dtype": {"choices": PRECISIONS, "default": "fp16"},
    },
    perform=_extract,
)


MERGE = CommandSyntax(
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
    perform=_merge,
)
