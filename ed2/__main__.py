"""`./launch.sh COMMAND` or `python -m ed2 COMMAND`: what is done with models besides training them."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

if not __package__:  # started by its path, as the launcher does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ed2.disk import require_temporary_folder
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.models.families.facts import trainable_titles
from ed2.terminal import LAUNCHER, exit_with

USE = f"{LAUNCHER} convert SOURCE TARGET"
OPTIONS = {"prediction_type": ("epsilon", "v_prediction"), "export_dtype": ("fp32", "fp16", "bf16")}
HELP = f"""\
{USE} {" ".join(f"[--{name} {'|'.join(choices)}]" for name, choices in OPTIONS.items())}

Convert an {trainable_titles()} model. SOURCE is a diffusers folder, a .safetensors or a .ckpt file, or the name
of a public model that was downloaded; TARGET is a .safetensors, .sft or .ckpt file if it ends that way, else a folder.
Existing files are never overwritten, and code in a .ckpt is never run. Give --prediction_type if the model does not say
what it predicts. --export_dtype sets the precision of the target, such as fp16 for a file of half the size; without it,
numbers stay as they are."""
OTHERS = f"""
{LAUNCHER} download NAME [TARGET]     download a public model, after a yes
{LAUNCHER} models                     list the models on this computer
{LAUNCHER} queue                      list runs that wait, add to them, and train them one after another
{LAUNCHER} report RUN                 write a report of a run into its folder
{LAUNCHER} cache                      show the caches of latents and captions, or remove what is old
{LAUNCHER} doctor                     try what training needs on this computer
{LAUNCHER} extract-lora BASE MODEL TARGET   write what training changed as a LoRA
{LAUNCHER} merge BASE LORA TARGET           add a LoRA to a model"""


COMMANDS = {
    "cache": "ed2.app.caching.command",
    "doctor": "ed2.app.doctor",
    "download": "ed2.app.hub.command",
    "models": "ed2.app.found_models",
    "queue": "ed2.app.queue.command",
    "report": "ed2.ui.report",
    "extract-lora": "ed2.app.lora.extract",
    "merge": "ed2.app.lora.merge",
}
"""The other commands, each with the module whose `main` gets the rest of the command line."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line."""
    if argv and argv[0] in COMMANDS:
        return int(import_module(COMMANDS[argv[0]]).main(argv[1:]))
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(f"{HELP}\n{OTHERS}\n")
        return 0
    return _convert(argv)


def _convert(argv: Sequence[str]) -> int:
    try:
        options = _parse(argv)
        require_temporary_folder()
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    from ed2.models.compute import quiet_libraries

    quiet_libraries()
    from ed2.app.convert import convert
    from ed2.models.compute import DTYPES

    dtype = DTYPES[options.export_dtype] if options.export_dtype else None
    try:
        convert(options.source, options.target, options.prediction_type, dtype)
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Wrote {options.target}\n")
    return 0


@dataclass(frozen=True)
class ConvertCommand:
    """A command line of `convert`; see `ed2.app.convert.convert`."""

    source: Path
    target: Path
    prediction_type: str | None
    export_dtype: str | None


def _parse(argv: Sequence[str]) -> ConvertCommand:
    """Read the command line.

    Raises:
        SettingsError: lists everything that is wrong with it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in OPTIONS:
        parser.add_argument(f"--{option}", nargs="?", const="")
    known, rest = parser.parse_known_args(argv)
    problems = [Problem(printable(text), "there is no such flag.") for text in rest if text.startswith("-")]
    command, *paths = [text for text in rest if not text.startswith("-")] or [""]
    if command != "convert":
        what = f"unknown command {printable(command)!r}." if command else "the command convert is missing."
        problems.append(Problem(None, what, f"Usage: {USE}. Other commands: {', '.join(COMMANDS)}"))
    elif len(paths) != 2:
        problems.append(Problem(None, f"convert needs two paths, not {len(paths)}.", f"Usage: {USE}"))
    given = vars(known)
    problems += filter(None, map(_option_problem, given, given.values()))
    if problems:
        raise SettingsError("Invalid command line:", problems)
    return ConvertCommand(Path(paths[0]), Path(paths[1]), **given)


def _option_problem(option: str, value: str | None) -> Problem | None:
    choices = OPTIONS[option]
    if value in (None, *choices):
        return None
    what = f"{printable(value)!r} is not allowed." if value else "the value is missing."
    return Problem(f"--{option}", what, f"Use {', '.join(choices[:-1])} or {choices[-1]}.")


if __name__ == "__main__":
    exit_with(main)
