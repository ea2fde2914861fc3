"""Finds a base model, and what keeps it from being trained, before any of it is loaded. Needs no torch."""

import os
import re
from pathlib import Path

from ed2.errors import Problem, printable
from ed2.models.families.facts import FACTS, UNET_PREFIX, described, kind_of, trainable_titles
from ed2.models.files.folder_problems import folder_problems
from ed2.models.files.header import Header, HeaderError, is_pickle, read_header
from ed2.models.files.pickled import texts_in

SCALES = (".scale_weight", "scaled_fp8")
"""Ends of the names of tensors that others have to be multiplied by."""
_CHOOSE = f"Choose an {trainable_titles()} model, as a file or a diffusers folder."
PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name"""


def base_model_problems(path: Path) -> list[Problem]:
    """Everything that keeps a path from being trained on; empty if it can be read."""
    return file_problems(path) if is_file(path) else folder_problems(path)


def is_file(path: Path) -> bool:
    """Whether this is a single file; false if it cannot be accessed or no file can have such a name."""
    return os.path.isfile(path)  # noqa: PTH113 -- unlike Path.is_file it never raises


def file_problems(path: Path) -> list[Problem]:
    """What keeps a single file from being trained on; its bytes say what it is, whatever its name."""
    if is_pickle(path):
        return [pickle_problem(path) or _not_converted(path)]
    try:
        return _problems_of(read_header(path))
    except HeaderError as error:
        return [Problem(None, error.what, error.fix)]


def pickle_problem(path: Path) -> Problem | None:
    """Why a file in PyTorch's format is no model to convert, by the texts in it; None if it may be one."""
    names = texts_in(path)
    if any(name.startswith(UNET_PREFIX) for name in names):
        return None
    kind = kind_of(dict.fromkeys(names, ()))
    if kind != "unknown":
        return _of_another_kind(kind)
    what = "this file can run code, so it is not opened; by the texts in it, it is not a Stable Diffusion model."
    return Problem(None, what, f"Choose an {trainable_titles()} model.")


def _not_converted(path: Path) -> Problem:
    target = path.with_suffix(".safetensors")
    if target == path:
        target = path.with_stem(f"{path.stem}-converted")
    what = "this file of PyTorch's own format can run code, so it cannot be used directly."
    fix = f'Convert it first; none of its code is run: python -m ed2 convert "{path.name}" "{target.name}"'
    return Problem(None, what, fix)


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


def _of_another_kind(kind: str) -> Problem:
    return Problem(None, f"this is {described(kind)}, which cannot be trained here.", _CHOOSE)


def _problems_of(header: Header) -> list[Problem]:
    kind = kind_of(header.shapes)
    family = FACTS.get(kind)
    if kind == "unknown":
        first = printable(min(header.shapes))
        what = f"its tensors, such as {first}, are not those of any kind of model that is known here."
        return [Problem(None, what, _CHOOSE)]
    if family is None or not family.is_trainable:
        return [_of_another_kind(kind)]
    if any(name.endswith(SCALES) for name in header.shapes):
        what = "its weights are 8-bit numbers with scales of their own, which are not read here."
        return [Problem(None, what, "Get the fp16 file of this model.")]
    missing = []
    for part in family.parts:
        if not any(name.startswith(part.prefix) for name in header.shapes):
            missing.append(part.name)
    if not missing:
        return []
    fix = "Get the complete model: UNet, VAE and text encoder in one file."
    return [Problem(None, f"it has no {' and no '.join(missing)}.", fix)]
