"""The base models that are on this computer already: `python -m ed2 models`, and a list on the page. Needs no torch."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, product
from pathlib import Path

from ed2.errors import Problem, SettingsError, printable
from ed2.models.files.found import FoundModel, find_models
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER

WEB_UI_FOLDERS = ("models/Stable-diffusion", "models/checkpoints")
"""Where the usual web UIs keep their models, from their own folder."""
LEVELS_ABOVE = 2
"""Folders above the program's that may be, or hold, a web UI."""
MAX_NEIGHBOURS = 200
USE = f"{LAUNCHER} models [--model_dirs FOLDER ...]"
HELP = f"""\
{USE}

List the base models on this computer: in the cache of the Hugging Face hub, in the folders of web UIs near this
program ({" and ".join(WEB_UI_FOLDERS)}), and in the given folders. Only headers are read."""


def models_here(model_dirs: Iterable[str], allow: Callable[[Path], bool] = lambda path: True) -> list[FoundModel]:
    """The base models on this computer.

    Args:
        model_dirs: more folders to look in.
        allow: asked for each path before it is opened.
    """
    from huggingface_hub import constants

    folders = [*map(Path, model_dirs), *_web_ui_folders(allow)]
    return find_models(dict.fromkeys(folders), Path(constants.HF_HUB_CACHE), allow)


def _web_ui_folders(allow: Callable[[Path], bool]) -> list[Path]:
    """The folders of models of the web UIs that are above the program's folder, or beside it."""
    homes = [PROGRAM_DIR, *PROGRAM_DIR.parents[:LEVELS_ABOVE]]
    if allow(PROGRAM_DIR.parent):
        homes += sorted(islice((path for path in PROGRAM_DIR.parent.iterdir() if path.is_dir()), MAX_NEIGHBOURS))
    folders = [home / name for home, name in product(homes, WEB_UI_FOLDERS)]
    return list(filter(Path.is_dir, folders))


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 wrong command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model_dirs", nargs="*", default=[])
    parser.add_argument("-h", "--help", action="store_true")
    known, rest = parser.parse_known_args(argv)
    if known.help:
        sys.stdout.write(f"{HELP}\n")
        return 0
    if rest:
        problems = [Problem(printable(text), "this is not expected here.", f"Usage: {USE}") for text in rest]
        sys.stderr.write(f"{SettingsError('Invalid command line:', problems)}\n")
        return SettingsError.exit_code
    found = models_here(known.model_dirs)
    for model in found:
        sys.stdout.write(f"{model.name}  ({model.about})\n")
    if not found:
        sys.stdout.write(f"No models were found. Download one: {LAUNCHER} download NAME\n")
    return 0
