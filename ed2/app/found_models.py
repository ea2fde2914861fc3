"""The base models that are on this computer already: `python -m ed2 models`, and a list on the page. Needs no torch."""

import argparse
import sys
from collections.abc import Callable, Iterable
from itertools import islice, product
from pathlib import Path

from ed2.app.command_line import CommandSyntax
from ed2.models.files.found import FoundModel, find_models
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER

WEB_UI_FOLDERS = ("models/Stable-diffusion", "models/checkpoints")
"""Where the usual web UIs keep their models, from their own folder."""
LEVELS_ABOVE = 2
"""Folders above the program's that may be, or hold, a web UI."""
MAX_NEIGHBOURS = 200


def models_here(model_dirs: Iterable[str], allow: Callable[[Path], bool] = lambda path: True) -> list[FoundModel]:
    """The base models on this computer, also in `model_dirs`; `allow` is asked for each path before it is opened."""
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


def _list(given: argparse.Namespace) -> None:
    found = models_here(given.model_dirs)
    for model in found:
        sys.stdout.write(f"{model.name}  ({model.about})\n")
    if not found:
        sys.stdout.write(f"No models were found. Download one: {LAUNCHER} download NAME\n")


COMMAND = CommandSyntax(
    use=f"{LAUNCHER} models",
    help=f"""\
[--model_dirs FOLDER ...]

List the base models on this computer: in the cache of the Hugging Face hub, in the folders of web UIs near this
program ({" and ".join(WEB_UI_FOLDERS)}), and in the given folders. Only headers are read.""",
    flags={"model_dirs": {"nargs": "*", "default": []}},
    perform=_list,
)
