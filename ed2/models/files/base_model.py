"""Where a base model is, and what keeps it from being trained, before anything of it is loaded. Needs no torch."""

import os
import re
from pathlib import Path

from ed2.errors import Problem
from ed2.models.families.facts import FACTS, described, kind_of, trainable_titles
from ed2.models.files.folder_problems import folder_problems
from ed2.models.files.header import Header, HeaderError, read_header

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name"""


def base_model_problems(path: Path) -> list[Problem]:
    """Everything that keeps a path from being trained on; empty if it can be read."""
    return file_problems(path) if is_file(path) else folder_problems(path)


def is_file(path: Path) -> bool:
    """Whether this is a single file; false if it cannot be accessed or no file can have such a name."""
    return os.path.isfile(path)  # noqa: PTH113 -- unlike Path.is_file it never raises


def file_problems(path: Path) -> list[Problem]:
    """What keeps a single file from being trained on."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        target = path.with_suffix(".safetensors").name
        fix = f"Convert it first, which runs nothing in it: python -m ed2 convert {path.name} {target}"
        return [Problem(None, f"a {suffix} file can run code, so it cannot be used directly.", fix)]
    if suffix != ".safetensors":
        fix = "Choose the .safetensors file of this model, or a diffusers folder."
        return [Problem(None, f"{suffix or 'files without an extension'} cannot be used as a base model.", fix)]
    try:
        return _problems_of(read_header(path))
    except HeaderError as error:
        return [Problem(None, error.what, error.fix)]


def in_hub_cache(name: str) -> Path | None:
    """The folder of a public model, `owner/name`, in the Hugging Face cache of this machine; downloads nothing."""
    if not PUBLIC_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def _problems_of(header: Header) -> list[Problem]:
    kind = kind_of(header.shapes)
    family = FACTS.get(kind)
    if family is None or not family.is_trainable:
        fix = f"Choose an {trainable_titles()} model, as a file or a diffusers folder."
        return [Problem(None, f"this is {described(kind)}, which cannot be trained here.", fix)]
    missing = []
    for part in family.parts:
        if not any(name.startswith(part.prefix) for name in header.shapes):
            missing.append(part.name)
    if not missing:
        return []
    fix = "Get the complete model: UNet, VAE and text encoder in one file."
    return [Problem(None, f"it has no {' and no '.join(missing)}.", fix)]
