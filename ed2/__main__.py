"""`python -m ed2 COMMAND`: what is done with models besides training them."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ed2.disk import require_temporary_folder
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.terminal import exit_with

USE = "python -m ed2 convert SOURCE TARGET"
PREDICTIONS = ("epsilon", "v_prediction")
HELP = f"""\
{USE} [--prediction_type {"|".join(PREDICTIONS)}]

Convert a Stable Diffusion 1.x or 2.x model. SOURCE is a diffusers folder, a .safetensors or a .ckpt file, or the name
of a public model that was downloaded; TARGET is a .safetensors, .sft or .ckpt file if it ends that way, else a folder.
Existing files are never overwritten, and code in a .ckpt is never run. Give --prediction_type if the model does not say
what it predicts."""
OTHERS = """
python -m ed2 download NAME [TARGET]     download a public model, after a yes
python -m ed2 models                     list the models on this computer"""


COMMANDS = {"download": "ed2.app.hub.command", "models": "ed2.app.found_models"}
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
        source, target, prediction_type = _parse(argv)
        require_temporary_folder()
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    from ed2.models.compute import quiet_libraries

    quiet_libraries()  # before the import of convert: bitsandbytes prints when it is imported
    from ed2.app.convert import convert

    try:
        convert(source, target, prediction_type)
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Wrote {target}\n")
    return 0


def _parse(argv: Sequence[str]) -> tuple[Path, Path, str | None]:
    """Source, target and prediction type.

    Raises:
        SettingsError: lists everything that is wrong with the command line.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--prediction_type", nargs="?", const="")
    known, rest = parser.parse_known_args(argv)
    problems = [Problem(printable(text), "there is no such flag.") for text in rest if text.startswith("-")]
    command, *paths = [text for text in rest if not text.startswith("-")] or [""]
    if command != "convert":
        what = f"unknown command {printable(command)!r}." if command else "the command convert is missing."
        problems.append(Problem(None, what, f"Usage: {USE}"))
    elif len(paths) != 2:
        problems.append(Problem(None, f"convert needs two paths, not {len(paths)}.", f"Usage: {USE}"))
    prediction = known.prediction_type
    if prediction not in (None, *PREDICTIONS):
        what = f"{printable(prediction)!r} is not allowed." if prediction else "the value is missing."
        problems.append(Problem("--prediction_type", what, f"Use {' or '.join(PREDICTIONS)}."))
    if problems:
        raise SettingsError("Invalid command line:", problems)
    return Path(paths[0]), Path(paths[1]), prediction


if __name__ == "__main__":
    exit_with(main)
