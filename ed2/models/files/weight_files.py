"""Which files of a diffusers folder hold the weights of a part: one, or several with an index. Needs no torch.

Source of the names: diffusers' `_add_variant` and transformers' constants; an index is
`STEM.safetensors.index.json`, with a variant `STEM.safetensors.index.fp16.json`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.errors import Problem, printable, shown
from ed2.models.families.facts import PartFacts
from ed2.models.files.header import Header, is_pickle, read_header
from ed2.small_files import read_object

VARIANTS = ("", ".fp32", ".fp16", ".bf16", ".non_ema", ".ema")
"""What follows the stem of a file of weights, the best to train on first."""
PICKLE_STEMS = {"transformers": "pytorch_model"}
"""How a library calls its `.bin` where that is not as its `.safetensors`."""
MAX_INDEX_BYTES = 16 << 20
MAX_PIECES = 100
_PIECE = re.compile(r"[\w-][\w.-]*\.(safetensors|bin)")
_WHOLE_PART = "Get this part again."


@dataclass(frozen=True)
class WeightFiles:
    """The files of a part's weights.

    Attributes:
        variant: what follows the stem of their names.
        index: the file that says which tensor is in which of them, where there may be several.
        tensors: the names in the index, each with its file.
        problem: why the index cannot be used; `files` is empty then.
    """

    files: tuple[Path, ...]
    variant: str = ""
    index: Path | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None

    @property
    def path(self) -> Path:
        """The file that stands for all."""
        return self.index or self.files[0]

    @property
    def is_pickled(self) -> bool:
        """Whether they are in PyTorch's own format, whatever they are called."""
        return any(map(is_pickle, self.files))

    def header(self) -> Header:
        """The headers of all of them as one, without the places of the tensors. Raises HeaderError."""
        return joined(map(read_header, self.files))


def joined(headers: Iterable[Header]) -> Header:
    """The headers of several files as one, without the places of the tensors."""
    whole = Header({}, {}, {}, {})
    for header in headers:
        whole.shapes.update(header.shapes)
        whole.dtypes.update(header.dtypes)
        whole.metadata.update(header.metadata)
    return whole


def find_weights(folder: Path, part: PartFacts) -> WeightFiles | None:
    """The weights of a part in a model's folder, as safetensors by their name; None if there are none."""
    return weights_in(folder / part.name, part.stem)


def find_pickled_weights(folder: Path, part: PartFacts) -> WeightFiles | None:
    """The weights of a part where only PyTorch's own format is there, whatever it is called; else None."""
    found = find_weights(folder, part)
    if found is None:
        return weights_in(folder / part.name, PICKLE_STEMS.get(part.library, part.stem), "bin")
    if not found.is_pickled:
        return None
    return found


def index_problem(found: WeightFiles, headers: Mapping[str, Header]) -> Problem | None:
    """Why the files of a part are not what their index says; `headers` by the names of the files."""
    if found.index is None:
        return None
    name = f"{found.index.parent.name}/{found.index.name}"
    for tensor, file in found.tensors.items():
        if tensor not in headers[file].shapes:
            what = f"it says that {printable(tensor)} is in {file}, which does not contain it."
            return Problem(name, what, _WHOLE_PART)
    num_held = sum(len(header.shapes) for header in headers.values())
    if num_held > len(joined(headers.values()).shapes):
        return Problem(name, "some of its tensors are in two of its files.", _WHOLE_PART)
    return None


def weights_in(folder: Path, stem: str, suffix: str = "safetensors") -> WeightFiles | None:
    """The files of weights in the folder of a part, the best variant of several; None if there are none."""
    for variant in VARIANTS:
        file, index = folder / f"{stem}{variant}.{suffix}", folder / f"{stem}.{suffix}.index{variant}.json"
        if file.is_file():
            return WeightFiles((file,), variant)
        if index.is_file():
            return _of_index(index, variant)
    return None


def _of_index(index: Path, variant: str) -> WeightFiles:
    try:
        tensors = _tensors_of(index)
    except (OSError, ValueError) as error:
        what = f"this index of the weights cannot be used ({printable(str(error), 200)})."
        return WeightFiles((), variant, index, {}, Problem(f"{index.parent.name}/{index.name}", what, _WHOLE_PART))
    files = tuple(index.with_name(name) for name in sorted(set(tensors.values())))
    return WeightFiles(files, variant, index, tensors)


def _tensors_of(index: Path) -> dict[str, str]:
    """The file of each tensor, all of them plain names. Raises OSError, ValueError."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ValueError(f"it is larger than {MAX_INDEX_BYTES >> 20} MB")
    tensors = read_object(index).get("weight_map")
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError("it lists no tensors")
    for file in tensors.values():
        if not isinstance(file, str) or not _PIECE.fullmatch(file):
            raise ValueError(f"{shown(file)} is not the name of a file beside it")
    files = set(tensors.values())
    if len(files) > MAX_PIECES:
        raise ValueError(f"it lists {len(files):,} files")
    return tensors
