"""What keeps a file or folder from being a base model, seen before anything of it is loaded. Needs no torch."""

import os
from pathlib import Path

from ed2.errors import Problem
from ed2.models.files.folder_faults import folder_faults
from ed2.models.files.header import Header, HeaderError, read_header
from ed2.models.files.layout_family import KINDS, family_of
from ed2.models.files.layout_names import UNET_PREFIX, VAE_PREFIX

FAMILIES = ("sd1", "sd2")
PREFIXES = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text_encoder": "cond_stage_model."}
"""How the names of a part's tensors begin in a single file."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
OTHER_MODEL = "Choose an SD 1.x or SD 2.x model, in a file or a diffusers folder."


def base_faults(path: Path) -> list[Problem]:
    """Everything that keeps a path from being trained on; empty where it may be read."""
    return file_faults(path) if is_file(path) else folder_faults(path)


def is_file(path: Path) -> bool:
    """Whether this is a single file; one that cannot be seen or has a name that no file can have is none."""
    return os.path.isfile(path)  # noqa: PTH113 -- unlike Path.is_file it never raises


def file_faults(path: Path) -> list[Problem]:
    """What keeps a single file from being trained on."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        target = path.with_suffix(".safetensors").name
        fix = f"Convert it, which runs nothing of it: python -m ed2 convert {path.name} {target}"
        return [Problem(None, f"a {suffix} file can run code, so it is not read here.", fix)]
    if suffix != ".safetensors":
        fix = "Give the .safetensors of this model, or a diffusers folder."
        return [Problem(None, f"a {suffix or 'nameless'} file is not read here.", fix)]
    try:
        return _faults_of(read_header(path))
    except HeaderError as error:
        return [Problem(None, error.what, error.fix)]


def _faults_of(header: Header) -> list[Problem]:
    family = family_of(header.shapes)
    if family not in FAMILIES:
        return [Problem(None, f"this is {KINDS[family]}, which cannot be trained here.", OTHER_MODEL)]
    missing = [part for part, prefix in PREFIXES.items() if not any(name.startswith(prefix) for name in header.shapes)]
    fix = "Get the whole model: UNet, VAE and text encoder in one file."
    return [Problem(None, f"it has no {' and no '.join(missing)}.", fix)] if missing else []
