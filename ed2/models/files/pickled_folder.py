"""A diffusers folder with weights in PyTorch's own format, as one whose weights are all safetensors. Needs no torch."""

import json
import shutil
from pathlib import Path

from ed2.errors import ModelError
from ed2.models.files.folder_problems import EXTRA_FILE, family_in, small_names
from ed2.models.files.pickled import write_tensors_of
from ed2.models.files.weight_files import WeightFiles, find_pickled_weights, find_weights


def pickled_parts(folder: Path) -> dict[str, WeightFiles]:
    """The pickled weights of a diffusers folder, by the path that they have as safetensors."""
    found = {part.file: find_pickled_weights(folder, part) for part in family_in(folder).parts}
    return {name: files for name, files in found.items() if files}


def write_without_pickles(source: Path, folder: Path) -> None:
    """Write the model `source` into `folder` with all weights as safetensors; nothing in it is run.

    Raises:
        ModelError: a part is damaged or contains code.
        OSError: it cannot be written.
    """
    family, pickles = family_in(source), pickled_parts(source)
    copied = [EXTRA_FILE] if (source / EXTRA_FILE).is_file() else []
    for part in family.parts:
        found = find_weights(source, part)
        if found and part.file not in pickles:
            files = (*found.files, *([found.index] if found.index else []))
            copied += [file.relative_to(source).as_posix() for file in files]
    for name in [*small_names(source, family), *copied]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    for name, pickled in pickles.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _write_part(pickled, folder / name)


def _write_part(pickled: WeightFiles, target: Path) -> None:
    """Write pickled weights as safetensors: one file, or as many as there are with an index."""
    if pickled.problem:
        raise ModelError(str(pickled.path), [pickled.problem])
    if pickled.index is None:
        write_tensors_of(pickled.files[0], target)
        return
    names = {file.name: f"{target.stem}-{number:05d}.safetensors" for number, file in enumerate(pickled.files, 1)}
    for file in pickled.files:
        write_tensors_of(file, target.with_name(names[file.name]))
    index = {"metadata": {}, "weight_map": {tensor: names[name] for tensor, name in pickled.tensors.items()}}
    target.with_name(f"{target.name}.index.json").write_text(json.dumps(index), encoding="utf-8")
