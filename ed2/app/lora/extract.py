"""`python -m ed2 extract-lora`: what training changed in a model, as a LoRA."""

import argparse
import sys
from collections.abc import Sequence

from ed2.app.lora.command_line import PRECISIONS, PathsCommand, number
from ed2.models.lora.names import LAYERS
from ed2.terminal import LAUNCHER

DEFAULT_RANK, MAX_RANK = 32, 1024
COMMAND = PathsCommand(
    use=f"{LAUNCHER} extract-lora BASE MODEL TARGET",
    help="""\
[--rank 32] [--keep 0.9] [--lora_layers all|linear|attention] [--export_dtype fp16|bf16|fp32]

Write what training changed in MODEL, which began as BASE, as a LoRA: a .safetensors file that web UIs add to BASE. Each
is a diffusers folder, a checkpoint of a run or a single file. A higher --rank keeps more and makes a larger file;
--keep gives each layer the lowest rank, up to --rank, that keeps this part of its change.""",
)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line."""
    return COMMAND.run(argv, _add_flags, _extract)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rank", type=number(1, MAX_RANK, int), default=DEFAULT_RANK)
    parser.add_argument("--keep", type=number(0, 1, float), default=1.0)
    parser.add_argument("--lora_layers", choices=tuple(LAYERS), default="all")
    parser.add_argument("--export_dtype", choices=PRECISIONS, default="fp16")


def _extract(flags: argparse.Namespace) -> None:
    from ed2.models.compute import DTYPES, quiet_libraries

    quiet_libraries()
    from ed2.app.lora.tools import LoraTarget, extract_lora
    from ed2.models.lora.arithmetic import RankOptions

    options = RankOptions(flags.rank, flags.keep, flags.lora_layers)
    target = LoraTarget(flags.target, DTYPES[flags.export_dtype])
    written = extract_lora(flags.base, flags.second, target, options, _report)
    for sentence in written.sentences():
        _say(sentence)
    _say(f"Wrote {written.path}")


def _report(title: str, done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        _say(f"{title[0].upper()}{title[1:]}: {done} of {total} layers.")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
