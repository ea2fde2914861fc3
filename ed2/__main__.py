"""`python -m ed2 convert SOURCE TARGET`: models between a diffusers folder, `.safetensors` and `.ckpt`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ed2.disk import require_temporary_folder
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.terminal import exit_with

USE = "python -m ed2 convert SOURCE TARGET"
PREDICTIONS = ("epsilon", "v_prediction")
HELP = f"""\
{USE} [--prediction_type {"|".join(PREDICTIONS)}]

Write a Stable Diffusion 1.x or 2.x model in another form. SOURCE is a diffusers folder, a .safetensors or a .ckpt;
TARGET ends in .safetensors or .ckpt, else it becomes a folder. Nothing is written over, and nothing that a .ckpt asks
for is run. What the model predicts is to be given where it does not say it itself."""


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; 0 done, 1 failed, 2 it cannot be read."""
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(f"{HELP}\n")
        return 0
    try:
        source, target, prediction_type = _read(argv)
        require_temporary_folder()
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    from ed2.models.libraries import quiet_libraries

    quiet_libraries()  # before what reads the libraries: bitsandbytes speaks as it is read
    from ed2.app.convert import convert

    try:
        convert(source, target, prediction_type)
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Wrote {target}\n")
    return 0


def _read(argv: Sequence[str]) -> tuple[Path, Path, str | None]:
    """Read the command line.

    Raises:
        SettingsError: lists everything that is wrong with it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--prediction_type", nargs="?", const="")
    known, rest = parser.parse_known_args(argv)
    problems = [Problem(printable(text), "there is no such flag.") for text in rest if text.startswith("-")]
    word, *paths = [text for text in rest if not text.startswith("-")] or [""]
    if word != "convert":
        what = f"{printable(word)!r} is no word that this knows." if word else "the word convert is missing."
        problems.append(Problem(None, what, f"Use: {USE}"))
    elif len(paths) != 2:
        problems.append(Problem(None, f"convert takes two paths, not {len(paths)}.", f"Use: {USE}"))
    if known.prediction_type not in (None, *PREDICTIONS):
        what = (
            f"{printable(known.prediction_type)!r} is not allowed."
            if known.prediction_type
            else "its value is missing."
        )
        problems.append(Problem("--prediction_type", what, f"It takes {' or '.join(PREDICTIONS)}."))
    if problems:
        raise SettingsError("The command line cannot be read:", problems)
    return Path(paths[0]), Path(paths[1]), known.prediction_type


if __name__ == "__main__":
    exit_with(main)
