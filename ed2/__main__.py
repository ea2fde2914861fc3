"""`python -m ed2 convert SOURCE TARGET`: models between a diffusers folder, `.safetensors` and `.ckpt`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ed2.errors import Ed2Error

HELP = """\
Write a Stable Diffusion 1.x or 2.x model in another form. SOURCE is a diffusers folder, a .safetensors or a .ckpt;
TARGET ends in .safetensors or .ckpt, else it becomes a folder. Nothing is written over, and nothing that a .ckpt asks
for is run."""


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m ed2")
    words = parser.add_subparsers(dest="word", required=True, metavar="convert")
    word = words.add_parser("convert", description=HELP, help="write a model in another form")
    word.add_argument("source", type=Path, metavar="SOURCE")
    word.add_argument("target", type=Path, metavar="TARGET")
    word.add_argument("--prediction_type", choices=("epsilon", "v_prediction"), help="where the model does not say it")
    given = parser.parse_args(argv)
    from ed2.models.libraries import quiet_libraries

    quiet_libraries()  # before what reads the libraries: bitsandbytes speaks as it is read
    from ed2.app.convert import convert

    try:
        convert(given.source, given.target, given.prediction_type)
    except Ed2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Wrote {given.target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
