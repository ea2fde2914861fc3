"""Which files of a public model are needed here: each part once, in one variant. Needs no torch."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

from ed2.errors import ModelError, Problem, printable
from ed2.models.captioner import VOCABULARY
from ed2.models.families.facts import FACTS, VAE, PartFacts, trainable_titles
from ed2.models.files.folder_problems import INDEX, SCHEDULER_CONFIG, TOKENIZER_FILES
from ed2.models.files.vae_files import CONFIG
from ed2.models.files.weight_files import PICKLE_STEMS, VARIANTS
from ed2.terminal import LAUNCHER
from ed2.text import counted, file_size, first_of

SAFE_FILES = (".safetensors", ".sft")
MAX_FILES = 20_000
"""More than any repository of a model has."""
MAX_LISTED = 12
_PLAIN_NAME = re.compile(r"[\w(+-][\w. ()+-]*")


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
