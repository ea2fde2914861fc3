"""`python -m ed2 download NAME [TARGET]`: download a public model after a yes."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ed2.app.command_line import SWITCH, CommandSyntax
from ed2.app.hub.download import Hub
from ed2.app.hub.files import Offer, listed_size
from ed2.app.signals import exit_with_parent
from ed2.errors import Ed2Error
from ed2.models.captioner import VOCABULARY, CaptionerFiles
from ed2.models.files.base_model import base_model_problems
from ed2.models.files.vae_files import CONFIG
from ed2.terminal import LAUNCHER, raw_stream
from ed2.text import file_size, visible

STEP_BYTES = 4 << 20
"""Progress is reported after this many bytes."""


def _perform(given: argparse.Namespace) -> int:
    """Raises Ed2Error."""
    given.name, *target = given.words
    given.target = Path(target[0]) if target else None
    try:
        if given.json:
            exit_with_parent()
            return _answer_json(given)
        return _answer(given)
    except Ed2Error as error:
        if not given.json:
            raise
        _say({"state": "failed", "text": str(error)})
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Run the same command again to continue.\n")
        return 130


def _answer(given: argparse.Namespace) -> int:
    """Show the offer, ask, and download."""
    hub = Hub()
    offer = hub.look_up(given.name)
    place = given.target or hub.cache
    sys.stdout.write(f"{offer.name}\n  size     {listed_size(offer.files)}\n")
    sys.stdout.write(f"  licence  {offer.licence} (as its model card says)\n  to       {place}\n")
    if not given.yes and not _agrees():
        sys.stdout.write("Nothing was downloaded.\n")
        return 1
    path = hub.download(offer, given.target, Bar())
    sys.stdout.write(f"\nDownloaded: {path}\n{_advice(given, offer, path)[0]}\n")
    return 0


def _agrees() -> bool:
    """Whether the person says yes; without one there is no yes."""
    sys.stdout.write("Download it? Type yes: ")
    sys.stdout.flush()
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        sys.stdout.write("\nNo terminal to ask at. If you agree, run it again with --yes.\n")
        return False


def _advice(given: argparse.Namespace, offer: Offer, path: Path) -> tuple[str, bool]:
    """How to use what was downloaded, or why it cannot be trained; and whether it can be."""
    name = str(path) if given.target else given.name
    if any(file.name == VOCABULARY for file in offer.files):
        CaptionerFiles.of(path)
        return "This model captions images. Use it in the Dataset tab, under “Caption images automatically”.", False
    if offer.files[0].name == CONFIG:
        return f"This is a VAE. Use it with: --vae {name}", False
    problems = [p for p in base_model_problems(path) if p.path != "prediction_type"]
    if problems:
        return "\n  ".join(["It cannot be trained here:", *map(str, problems)]), False
    return f"Train it with: --resume_ckpt {name}", True


@dataclass
class Bar:
    """Shows the progress in one line of a terminal; a file or pipe gets a line per file."""

    _name: str = ""
    _shown: int = -STEP_BYTES

    def __call__(self, done: int, total: int, name: str) -> None:
        """Show how much is here."""
        is_new = name != self._name
        if not is_new and done - self._shown < STEP_BYTES and done < total:
            return
        stream = raw_stream(sys.stdout)
        if stream.isatty():
            share = f"{done / total:.0%}" if total else "100%"
            stream.write(f"\r{share:>5}  {file_size(done)} of {file_size(total)}  {visible(name):<60.60}")
            stream.flush()
        elif is_new:
            stream.write(f"{visible(name)}\n")
        self._name, self._shown = name, done


def _answer_json(given: argparse.Namespace) -> int:
    """For the page: the offer or, with --yes, the progress and the result, as lines of what changes in its status."""
    hub = Hub()
    offer = hub.look_up(given.name)
    if not given.yes:
        offered = {"size": listed_size(offer.files), "licence": offer.licence, "is_gated": offer.is_gated}
        _say({"state": "offered", **offered})
        return 0
    shown = -STEP_BYTES

    def report(done: int, total: int, name: str) -> None:
        nonlocal shown
        if done - shown >= STEP_BYTES or done == total:
            shown = done
            _say({"done": done, "total": total, "file": name})

    path = hub.download(offer, given.target, report)
    advice, is_model = _advice(given, offer, path)
    _say({"state": "done", "path": str(path), "text": advice, "is_model": is_model})
    return 0


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


COMMAND = CommandSyntax(
    use=f"{LAUNCHER} download NAME [TARGET]",
    help="""\
[--yes]

Download a model of huggingface.co for training: only the weights, configs and tokenizer that training needs, into the
cache of the hub or into the folder TARGET. NAME is owner/name, or owner/name/FILE. Size and licence are shown first,
and nothing is downloaded without a yes (--yes for scripts). A download that was interrupted continues where it stopped.
A model whose owner asks for a login needs a token: log in with .venv/bin/hf auth login, or set HF_TOKEN.""",
    needs="a name and at most a folder",
    count=[1, 2],
    flags={"yes": SWITCH, "json": SWITCH},
    perform=_perform,
)
