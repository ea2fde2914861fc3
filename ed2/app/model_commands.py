"""`python -m ed2` convert, extract-lora, merge and models: commands for base models, which need no torch to be read."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ed2.app.command_line import PRECISIONS, CommandSyntax, number
from ed2.app.libraries import read_libraries
from ed2.app.local_models import WEB_UI_FOLDERS, models_here
from ed2.errors import Problem, printable
from ed2.models.families.facts import trainable_titles
from ed2.models.files.base_model import PUBLIC_EXAMPLE
from ed2.models.lora.names import LAYERS
from ed2.terminal import LAUNCHER
from ed2.text import counted, first_of

OPTIONS = {"prediction_type": ("epsilon", "v_prediction"), "export_dtype": PRECISIONS}
"""What `convert` can be told, with the values that it takes."""
DEFAULT_RANK, MAX_RANK = 32, 1024
MAX_WEIGHT = 10
MAX_NAMES = 3


def _convert(given: argparse.Namespace) -> None:
    read_libraries()
    from ed2.app.convert import convert
    from ed2.models.compute import DTYPES

    source, target = given.words
    dtype = DTYPES[given.export_dtype] if given.export_dtype else None
    convert(Path(source), Path(target), given.prediction_type, dtype)
    sys.stdout.write(f"Wrote {target}\n")


def _convert_problems(given: argparse.Namespace) -> Iterator[Problem]:
    for option, choices in OPTIONS.items():
        value = getattr(given, option)
        if value not in (None, *choices):
            what = f"{printable(value)!r} is not allowed." if value else "the value is missing."
            yield Problem(f"--{option}", what, f"Use {', '.join(choices[:-1])} or {choices[-1]}.")


CONVERT = CommandSyntax(
    use=f"{LAUNCHER} convert SOURCE TARGET",
    help=f"""\
{" ".join(f"[--{name} {'|'.join(choices)}]" for name, choices in OPTIONS.items())}

Convert an {trainable_titles()} model. SOURCE is a diffusers folder, a .safetensors or a .ckpt file, or the name
of a public model that was downloaded; TARGET is a .safetensors, .sft or .ckpt file if it ends that way, else a folder.
Existing files are never overwritten, and code in a .ckpt is never run. Give --prediction_type if the model does not say
what it predicts. --export_dtype sets the precision of the target, such as fp16 for a file of half the size; without it,
numbers stay as they are.""",
    needs="two paths",
    count=[2],
    flags={option: {"nargs": "?", "const": ""} for option in OPTIONS},
    check=_convert_problems,
    perform=_convert,
)


def _extract(given: argparse.Namespace) -> None:
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


def _list(given: argparse.Namespace) -> None:
    found = models_here(given.model_dirs)
    for model in found:
        sys.stdout.write(f"{model.name}  ({model.about})\n")
    if not found:
        sys.stdout.write(f"No models were found. Download one, such as: {LAUNCHER} download {PUBLIC_EXAMPLE}\n")


MODELS = CommandSyntax(
    use=f"{LAUNCHER} models",
    help=f"""\
[--model_dirs FOLDER ...]

List the base models on this computer: in the cache of the Hugging Face hub, in the folders of web UIs near this
program ({" and ".join(WEB_UI_FOLDERS)}), and in the given folders. Only headers are read.""",
    flags={"model_dirs": {"nargs": "*", "default": []}},
    perform=_list,
)
