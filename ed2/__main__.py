"""`./launch.sh COMMAND` or `python -m ed2 COMMAND`: what is done with models besides training them."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name

if not __package__:  # started by its path, as the launcher does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ed2.app.command_line import PRECISIONS, CommandSyntax
from ed2.app.libraries import read_libraries
from ed2.disk import require_temporary_folder
from ed2.errors import Problem, SettingsError, printable
from ed2.models.families.facts import trainable_titles
from ed2.terminal import LAUNCHER, exit_with

OPTIONS = {"prediction_type": ("epsilon", "v_prediction"), "export_dtype": PRECISIONS}
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
    "cache": "ed2.app.caching.command:COMMAND.run",
    "doctor": "ed2.app.doctor:COMMAND.run",
    "download": "ed2.app.hub.command:COMMAND.run",
    "models": "ed2.app.found_models:COMMAND.run",
    "queue": "ed2.app.queue.command:main",
    "report": "ed2.ui.report:COMMAND.run",
    "extract-lora": "ed2.app.lora_commands:EXTRACT.run",
    "merge": "ed2.app.lora_commands:MERGE.run",
}
"""The other commands, each with the function that gets the rest of the command line."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line."""
    command, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if command == "convert":
        return CONVERT.run(rest)
    if command in COMMANDS:
        return int(resolve_name(COMMANDS[command])(rest))
    if command in ("-h", "--help"):
        sys.stdout.write(f"{CONVERT.use} {CONVERT.help}\n{OTHERS}\n")
        return 0
    fix = f"Usage: {CONVERT.use}. Other commands: {', '.join(COMMANDS)}"
    error = SettingsError("Invalid command line:", [Problem(None, f"unknown command {printable(command)!r}.", fix)])
    sys.stderr.write(f"{error}\n")
    return error.exit_code


def _convert(given: argparse.Namespace) -> None:
    """Raises Ed2Error."""
    require_temporary_folder()
    read_libraries()
    from ed2.app.convert import convert
    from ed2.models.compute import DTYPES

    source, target = given.words
    dtype = DTYPES[given.export_dtype] if given.export_dtype else None
    convert(Path(source), Path(target), given.prediction_type, dtype)
    sys.stdout.write(f"Wrote {target}\n")


def _problems(given: argparse.Namespace) -> Iterator[Problem]:
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
    check=_problems,
    perform=_convert,
)


if __name__ == "__main__":
    exit_with(main)
