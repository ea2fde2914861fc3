"""The files of a public model that are needed here, each part once in one variant, and where they go. Needs no torch.

Source of the layout of the hub's cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ed2.checkpoint.room import existing
from ed2.disk import sha256_of, write_whole
from ed2.errors import ModelError, Problem, printable
from ed2.models.captioner import VOCABULARY
from ed2.models.families.facts import FACTS, VAE, PartFacts, trainable_titles
from ed2.models.files.base_model import HUB_FOLDER, SNAPSHOTS
from ed2.models.files.folder_problems import INDEX, SCHEDULER_CONFIG, TOKENIZER_FILES
from ed2.models.files.vae_files import CONFIG
from ed2.models.files.weight_files import PICKLE_STEMS, VARIANTS
from ed2.small_files import is_file
from ed2.terminal import LAUNCHER
from ed2.text import counted, file_size, first_of

SAFE_FILES = (".safetensors", ".sft")
MAX_FILES = 20_000
"""More than any repository of a model has."""
MAX_LISTED = 12
_PLAIN_NAME = re.compile(r"[\w(+-][\w. ()+-]*")

SPARE_BYTES = 256 << 20
"""Left free on the disk."""
PARTIAL = ".incomplete"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a public model.

    Attributes:
        name: its path in the repository.
        num_bytes: its size.
        digest: SHA-256 of a large file, which Git LFS stores; git's own hash of a small one.
    """

    name: str
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class Offer:
    """A public model as it would be downloaded.

    Attributes:
        name: owner/name.
        inside: the file that was named; empty for a whole model.
        commit: its version.
        licence: as its model card says.
        is_gated: whether its owner asks for a login.
    """

    name: str
    inside: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    is_gated: bool

    @property
    def num_bytes(self) -> int:
        """The size of all files."""
        return sum(file.num_bytes for file in self.files)


def needed_files(name: str, inside: str, files: Collection[HubFile]) -> list[HubFile]:
    """Those of the `files` of a model that training needs; or what belongs to the one that was named, `inside`.

    Raises:
        ModelError: it holds no model to train, or several.
    """
    by_name, family = {file.name: file for file in files}, next(iter(FACTS.values()))
    if inside:
        wanted = _with_yaml([_named(name, inside, by_name)], by_name)
    elif INDEX in by_name:
        wanted = _of_folder(name, by_name)
    elif CONFIG in by_name and (weights := _weights(family.part(VAE), "", by_name)):
        wanted = [CONFIG, *weights]
    elif VOCABULARY in by_name and (weights := _weights(family.text_encoders[0], "", by_name)):
        wanted = [CONFIG, VOCABULARY, *weights]  # a model for captions, which transformers lays out as a text encoder
    else:
        wanted = _with_yaml([_only_file(name, by_name)], by_name)
    return [by_name[file] for file in dict.fromkeys(wanted)]


def _of_folder(name: str, files: Collection[str]) -> list[str]:
    """The small files and the weights of a diffusers folder."""
    folders = {file.partition("/")[0] for file in files}
    parts = [part for part in _known_parts() if part.name in folders]
    if "unet" not in folders:
        raise _no_model(name, "it has no UNet")
    small = [INDEX, SCHEDULER_CONFIG, *(part.config for part in parts), *_tokenizer_files()]
    wanted = [file for file in small if file in files]
    variants = _common_variant(parts, files)
    for part in parts:
        wanted += _weights(part, part.name, files, variants)
    return wanted


def _common_variant(parts: Collection[PartFacts], files: Collection[str]) -> Collection[str]:
    """The best variant in which every part is there, alone; all variants if there is none."""
    for variant in VARIANTS:
        if all(_weights(part, part.name, files, [variant]) for part in parts):
            return [variant]
    return VARIANTS


def _known_parts() -> list[PartFacts]:
    """The parts of all families, each once."""
    parts: dict[str, PartFacts] = {}
    for family in FACTS.values():
        parts |= {part.name: part for part in family.parts}
    return list(parts.values())


def _tokenizer_files() -> list[str]:
    tokenizers: set[str] = set()
    for family in FACTS.values():
        tokenizers.update(family.tokenizers)
    return [f"{tokenizer}/{file}" for tokenizer, file in product(sorted(tokenizers), TOKENIZER_FILES)]


def _weights(part: PartFacts, folder: str, files: Collection[str], variants: Collection[str] = VARIANTS) -> list[str]:
    """The files of a part's weights in the first variant that is there; safetensors before PyTorch's own format."""
    place = f"{folder}/" if folder else ""
    for suffix, stem in (("safetensors", part.stem), ("bin", PICKLE_STEMS.get(part.library, part.stem))):
        for variant in variants:
            if f"{place}{stem}{variant}.{suffix}" in files:
                return [f"{place}{stem}{variant}.{suffix}"]
            index = f"{place}{stem}.{suffix}.index{variant}.json"
            pieces = re.compile(re.escape(f"{place}{stem}{variant}-") + r"\d{5}-of-\d{5}\." + suffix)
            found = sorted(filter(pieces.fullmatch, files))
            if index in files and found:
                return [index, *found]
    return []


def _named(name: str, inside: str, files: Collection[str]) -> str:
    if inside not in files:
        what = f"{printable(name)} has no file {printable(inside, 200)}."
        raise _error(name, what, f"Look at its files: https://huggingface.co/{name}/tree/main")
    return inside


def _only_file(name: str, files: Collection[str]) -> str:
    """The single file at the top of a repository, a safe one before one that has to be converted."""
    for suffixes in (SAFE_FILES, (".ckpt",)):
        found = sorted(file for file in files if file.lower().endswith(suffixes) and _PLAIN_NAME.fullmatch(file))
        if len(found) == 1:
            return found[0]
        if found:
            what = f"it holds {len(found)} files that may be models: {first_of(found, MAX_LISTED)}."
            raise _error(name, what, f"Name one of them: {LAUNCHER} download {name}/{found[0]}")
    raise _no_model(name, "it has neither model_index.json nor a .safetensors file")


def _with_yaml(wanted: list[str], files: Collection[str]) -> list[str]:
    """With the .yaml beside a single file, which says what it predicts."""
    beside = wanted[0].rpartition(".")[0] + ".yaml"
    if beside not in files:
        return wanted
    return [*wanted, beside]


def _no_model(name: str, why: str) -> ModelError:
    return _error(
        name, f"this is not a model that can be trained here: {why}.", f"Choose an {trainable_titles()} model."
    )


def _error(name: str, what: str, fix: str) -> ModelError:
    return ModelError(f"{printable(name)} cannot be downloaded:", [Problem(None, what, fix)])


def listed_size(files: Collection[HubFile]) -> str:
    """Size and number of files, for a sentence: "4.3 GB in 12 files"."""
    return f"{file_size(sum(file.num_bytes for file in files))} in {counted(len(files), 'file')}"


@dataclass(frozen=True)
class Destination:
    """Where a model goes: the hub's cache, in its own layout, or a folder of the user."""

    cache: Path
    offer: Offer
    target: Path | None

    @property
    def _model(self) -> Path:
        return self.cache / (HUB_FOLDER + self.offer.name.replace("/", "--"))

    @property
    def _folder(self) -> Path:
        return self.target or self._model / SNAPSHOTS / self.offer.commit

    @property
    def result(self) -> Path:
        """The folder, or the single file."""
        weights = self.offer.files[0].name
        is_single = not any(file.name.endswith(".json") for file in self.offer.files)
        if is_single:
            return self._folder / weights
        return self._folder

    def partial(self, file: HubFile) -> Path:
        """Where a file is received."""
        if self.target:
            path = self.target / file.name
            return path.with_name(path.name + PARTIAL)
        return self._model / "blobs" / (file.digest + PARTIAL)

    def has(self, file: HubFile) -> bool:
        """Whether a file is here, with the right content; a damaged one in the cache is removed.

        Raises:
            ModelError: another file of its name is in the user's folder.
        """
        path = self._folder / file.name
        if not is_file(path):
            blob = self._model / "blobs" / file.digest
            if self.target or not is_file(blob):
                return False
            if is_right(file, blob):
                self.put(file, blob)
                return True
            blob.unlink()
            return False
        if is_right(file, path):
            return True
        if self.target:
            problem = Problem(None, f"{path} is another file, which is not replaced.", "Choose another folder.")
            raise ModelError(f"{self.offer.name} cannot be downloaded:", [problem])
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        return False

    def put(self, file: HubFile, received: Path) -> None:
        """Put a received file in its place. In the cache a link leads to it where the system has links."""
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.target:
            received.replace(path)
            return
        blob = self._model / "blobs" / file.digest
        received.replace(blob)
        try:
            path.unlink(missing_ok=True)
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows without the right to make links
            blob.replace(path)

    def finish(self) -> None:
        """Say in the cache that this is the version of the main branch."""
        if self.target is None:
            (self._model / "refs").mkdir(parents=True, exist_ok=True)
            write_whole(self._model / "refs" / "main", self.offer.commit.encode())

    def require_room(self) -> None:
        """Raise ModelError unless the disk has room for what is still missing."""
        missing = 0
        for file in self.offer.files:
            if not is_file(self._folder / file.name):
                partial = self.partial(file)
                missing += file.num_bytes
                if is_file(partial):
                    missing -= partial.stat().st_size
        place = existing(self._folder)
        free = shutil.disk_usage(place).free
        if missing and missing + SPARE_BYTES > free:
            what = f"it needs {file_size(missing)} more in {place}, where {file_size(free)} are free."
            problem = Problem(None, what, "Free some space, or give a folder on another drive as TARGET.")
            raise ModelError(f"{self.offer.name} cannot be downloaded:", [problem])


def is_right(file: HubFile, path: Path) -> bool:
    """Whether a file has the size and the hash that the hub says."""
    return path.stat().st_size == file.num_bytes and _digest_of(file, path) == file.digest


def _digest_of(file: HubFile, path: Path) -> str:
    if SHA256.fullmatch(file.digest):
        return sha256_of(path)
    content = path.read_bytes()  # small: the large ones have a SHA-256
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
