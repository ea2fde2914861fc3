"""Finds a base model, and what keeps it from being trained, before any of it is loaded. Needs no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FACTS, UNET_PREFIX, VAE, FamilyFacts, trainable_titles
from ed2.models.families.kinds import described, kind_of
from ed2.models.files.description import find_prediction
from ed2.models.files.folder_problems import INDEX, family_in, folder_problems
from ed2.models.files.header import Header, HeaderError, is_pickle
from ed2.models.files.pickled import any_header, texts_in
from ed2.models.files.pickled_folder import pickled_parts
from ed2.models.files.vae_files import CONFIG, find_vae
from ed2.small_files import is_file
from ed2.terminal import LAUNCHER
from ed2.text import listed

SCALES = (".scale_weight", "scaled_fp8")
"""Ends of the names of tensors that others have to be multiplied by."""
SINGLE_FILES = (".safetensors", ".sft", ".ckpt")
"""Endings of the usual single files."""
_CHOOSE = f"Choose an {trainable_titles()} model, as a file or a diffusers folder."
PUBLIC_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w. ()+-]+)*")
"""owner/name, or owner/name/FILE for a file of such a model."""
PUBLIC_EXAMPLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
HUB_FOLDER = "models--"
"""Beginning of the name of a model's folder in the Hugging Face cache."""
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Located:
    """Where a base model is.

    Attributes:
        note: a sentence for the user if this is not the place that was named.
    """

    path: Path
    note: str = ""


def locate(name: str) -> Located | None:
    """The file or folder that a path or a public name stands for; None if it is not on this computer.

    A folder of the Hugging Face cache stands for the newest download in it.
    """
    path = Path(name)
    try:
        if not path.exists():
            found = in_hub_cache(name)
            if not found:
                return None
            return Located(found)
        snapshot = _newest_snapshot(path)
    except (OSError, ValueError):  # no file can have such a name
        return None
    if snapshot is None:
        return Located(path)
    return Located(_model_in(snapshot), f"Using the newest download in {path.name}: {snapshot}.")


def base_model_problems(path: Path, *, prediction_type: str | None = None, vae: Path | None = None) -> list[Problem]:
    """Everything that keeps a run from starting with this base model; empty if nothing does.

    Weights in PyTorch's own format are not a problem, since the start of a run converts them.

    Args:
        path: a file or folder.
        prediction_type: what it predicts, in place of what it says.
        vae: the VAE that takes the place of its own.
    """
    find = file_problems if is_file(path) else folder_problems
    problems = find(path, prediction_type=prediction_type, has_vae=vae is not None, may_convert=True)
    if problems or vae is None:
        return problems
    try:
        find_vae(vae, _family_of(path), may_convert=True)
    except ModelError as error:
        name = printable(str(vae), 1000)
        return [Problem(VAE, f"{name}: {problem.what}", problem.fix) for problem in error.problems]
    return []


def needs_conversion(path: Path) -> bool:
    """Whether a file or folder holds weights in PyTorch's own format, which a start converts first."""
    if is_file(path):
        return is_pickle(path)
    return is_file(path / INDEX) and bool(pickled_parts(path))


def file_problems(
    path: Path, *, prediction_type: str | None = None, has_vae: bool = False, may_convert: bool = False
) -> list[Problem]:
    """What keeps a single file from being trained on; its bytes say what it is, whatever its name.

    The arguments are those of `folder_problems`.
    """
    if is_pickle(path):
        if problem := pickle_problem(path):
            return [problem]
        if not may_convert:
            return [_not_converted(path)]
    try:
        header = any_header(path)
        problems = _problems_of(header, has_vae=has_vae)
        if not problems and prediction_type is None:
            find_prediction(path, FACTS[kind_of(header.shapes)], header)
    except HeaderError as error:
        return [Problem(None, error.what, error.fix)]
    except ModelError as error:
        return list(error.problems)
    return problems


def pickle_problem(path: Path) -> Problem | None:
    """Why a file in PyTorch's format is no model to convert, by the texts in it; None if it may be one."""
    names = texts_in(path)
    if any(name.startswith(UNET_PREFIX) for name in names):
        return None
    kind = kind_of(dict.fromkeys(names, ()))
    if kind != "unknown":
        return _of_another_kind(kind)
    what = "this file can run code, so it is not opened; judging by the text in it, it is not a Stable Diffusion model."
    return Problem(None, what, f"Choose an {trainable_titles()} model.")


def _not_converted(path: Path) -> Problem:
    target = path.with_suffix(".safetensors")
    if target == path:
        target = path.with_stem(f"{path.stem}-converted")
    what = "this file is in PyTorch's own format, which can run code, so it cannot be used directly."
    fix = f'Convert it first; no code in it is run: {LAUNCHER} convert "{path.name}" "{target.name}"'
    return Problem(None, what, fix)


def in_hub_cache(name: str) -> Path | None:
    """The folder or file of a public model in the Hugging Face cache of this machine; downloads nothing."""
    if not PUBLIC_NAME.fullmatch(name) or ".." in name.split("/"):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    owner, model, *inside = name.split("/")
    try:
        snapshot = Path(snapshot_download(f"{owner}/{model}", local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    if not inside:
        return _model_in(snapshot)
    file = snapshot.joinpath(*inside)
    if not is_file(file):
        return None
    return file


def _newest_snapshot(path: Path) -> Path | None:
    """The download in a model's folder of the Hugging Face cache that its main branch stands for, else the newest."""
    if not path.name.startswith(HUB_FOLDER) or not (path / SNAPSHOTS).is_dir():
        return None
    main = path / "refs" / "main"
    if main.is_file():
        named = path / SNAPSHOTS / main.read_text(encoding="utf-8", errors="replace").strip()
        if named.parent == path / SNAPSHOTS and named.is_dir():
            return named
    folders = [folder for folder in (path / SNAPSHOTS).iterdir() if folder.is_dir()]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _model_in(snapshot: Path) -> Path:
    """A download itself if it is a diffusers folder or a VAE, or the single file in it."""
    if is_file(snapshot / INDEX) or is_file(snapshot / CONFIG):
        return snapshot
    files = [file for file in snapshot.iterdir() if file.suffix.lower() in SINGLE_FILES]
    return files[0] if len(files) == 1 else snapshot


def _family_of(path: Path) -> FamilyFacts:
    """The family of a sound base model."""
    if not is_file(path):
        return family_in(path)
    return FACTS[kind_of(any_header(path).shapes)]


def _of_another_kind(kind: str) -> Problem:
    return Problem(None, f"this is {described(kind)}, which cannot be trained here.", _CHOOSE)


def _problems_of(header: Header, *, has_vae: bool) -> list[Problem]:
    kind = kind_of(header.shapes)
    family = FACTS.get(kind)
    if kind == "unknown":
        first = printable(min(header.shapes))
        what = f"its tensors, such as {first}, are not those of any known kind of model."
        return [Problem(None, what, _CHOOSE)]
    if family is None:
        return [_of_another_kind(kind)]
    if any(name.endswith(SCALES) for name in header.shapes):
        what = "its weights are 8-bit numbers with separate scales, a format that cannot be used here."
        return [Problem(None, what, "Get the fp16 file of this model.")]
    return _missing_parts(header, family, has_vae=has_vae)


def _missing_parts(header: Header, family: FamilyFacts, *, has_vae: bool) -> list[Problem]:
    """The problem of a file without all parts of its family, as pruned ones are."""
    missing = []
    for part in family.parts:
        is_there = any(name.startswith(part.prefix) for name in header.shapes)
        if not is_there and not (has_vae and part.name == VAE):
            missing.append(part)
    if not missing:
        return []
    fix = f"Get the complete model: {listed([part.title for part in family.parts])} in one file."
    if [part.name for part in missing] == [VAE]:
        fix = f"Set --vae to a VAE of {family.title}, as a file or folder, or get the complete model."
    return [Problem(None, f"it has {listed([f'no {part.title}' for part in missing])}.", fix)]
