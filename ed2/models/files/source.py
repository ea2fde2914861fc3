"""Opens a base model, which may be a single `.safetensors` file, by the names of a diffusers folder.

What a single file does not contain comes from `configs/`: the configs of its family and the tokenizer. It is read part
by part, strictly: every weight that the config asks for must be there in its shape.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ed2.errors import ModelError, Problem, first_line, printable
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS, VAE, PartFacts
from ed2.models.families.kinds import kind_of
from ed2.models.files.base_model import file_problems
from ed2.models.files.description import CONFIGS, ZERO_SNR_CHANGES, find_prediction, says_zero_snr, without_marks
from ed2.models.files.folder import (
    build_network,
    model_error,
    open_folder,
    part_class,
    stored_dtype,
    weights_problem,
    with_scheduler,
)
from ed2.models.files.folder_problems import SCHEDULER_CONFIG, TOKENIZER_FILES
from ed2.models.files.header import read_header
from ed2.models.files.layout import DiffusersTensors, diffusers_tensors, vae_tensors
from ed2.models.files.vae_files import VaeFiles, find_vae
from ed2.models.process import DiffusionProcess
from ed2.small_files import is_file

GET_AGAIN = "Get this file again, or choose another one."
VAE_AGAIN = "Get this VAE again, or choose another one."


def open_base(path: Path, scheduler_changes: Mapping[str, Any], vae: Path | None = None) -> ModelSource:
    """Open a base model without reading its weights.

    Args:
        path: a diffusers folder or a single file.
        scheduler_changes: what the user overrides, by the names of a scheduler's config.
        vae: a file or folder whose VAE takes the place of the model's, which may have none.

    Raises:
        ModelError: it is missing, incomplete, or of a kind that cannot be trained.
    """
    if is_file(path):
        source: ModelSource = open_single_file(path, scheduler_changes, has_vae=vae is not None)
    else:
        given = scheduler_changes.get("prediction_type")
        folder = open_folder(path, prediction_type=given, has_vae=vae is not None)
        source = replace(folder, small_files=with_scheduler(folder.small_files, scheduler_changes))
    if vae is not None:
        source = WithVae(source, _open_vae(vae, source.family))
    try:
        DiffusionProcess.from_config(source.config(SCHEDULER_CONFIG))
    except Exception as error:  # a wrong config can fail in many ways
        what = first_line(error)
        if not isinstance(error, ValueError):
            what = f"it gives no noise schedule ({what})"
        raise model_error(path, Problem(SCHEDULER_CONFIG, f"{what}.", "Choose another model.")) from None
    return source


@dataclass(frozen=True)
class ModelFile:
    """A single file of a family that can be trained, complete judging by its names.

    Attributes:
        small_files: what a diffusers folder of this model contains besides weights.
        dtypes: how each part's weights are stored.
    """

    path: Path
    family: str
    small_files: Mapping[str, bytes]
    dtypes: Mapping[str, torch.dtype]

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file of the diffusers folder."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Read one part.

        Raises:
            ModelError: weights are missing, or of other shapes than the family's.
        """
        family = FACTS[self.family]
        facts = family.part(part)
        try:
            tensors = self._tensors(facts).parts[part]
            load = _load_text_encoder if facts in family.text_encoders else _load_network
            module = load(self, facts, tensors).to(dtype)
        except ModelError:
            raise
        except Exception as error:  # of many types: the libraries notice a mismatch deep inside
            lines = [line.strip() for line in str(error).splitlines()]
            reason = " ".join(lines[1:2] or lines)[:300]
            what = f"its weights are not those of an {family.title} model ({reason})."
            raise model_error(self.path, Problem(part, what, GET_AGAIN)) from error
        problem = weights_problem(module.state_dict())
        if problem:
            raise model_error(self.path, Problem(part, f"{problem}.", GET_AGAIN))
        return module

    def tokenizer(self, name: str) -> CLIPTokenizer:
        """A tokenizer of the family, by the name of its folder."""
        with TemporaryDirectory() as folder:
            for file in (file for file in self.small_files if file.startswith(f"{name}/")):
                (Path(folder) / Path(file).name).write_bytes(self.small_files[file])
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def extra(self) -> dict[str, Tensor]:
        """Tensors that a diffusers folder omits, as far as exports contain them again.

        Of SD2 these are the last layer and the projection of the text encoder.
        """
        mark = FACTS[self.family].file_mark
        if mark is None:
            return {}
        left_over = without_marks(self._tensors(None).left_over)
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in left_over if re.match(mark, name)}

    def _tensors(self, part: PartFacts | None) -> DiffusersTensors:
        """The file's tensors, those of other parts than `part` without content."""
        named: dict[str, Tensor] = {}
        with safe_open(self.path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if part and name.startswith(part.prefix):
                    # Cloned: inside the file a tensor may be unaligned, which changes the last bits of sums.
                    named[name] = file.get_tensor(name).clone()
                else:
                    named[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
        return diffusers_tensors(named, num_text_layers=num_text_layers(self))


def open_single_file(path: Path, scheduler_changes: Mapping[str, Any], *, has_vae: bool = False) -> ModelFile:
    """Open a single file without reading its weights.

    Args:
        path: a `.safetensors` file of a family that can be trained.
        scheduler_changes: what the user overrides; `prediction_type` decides what it predicts.
        has_vae: whether a VAE comes from elsewhere, so that this file needs none.

    Raises:
        ModelError: the file is damaged, of another format or kind, or does not say what it predicts.
    """
    given = scheduler_changes.get("prediction_type")
    if problems := file_problems(path, prediction_type=given, has_vae=has_vae):
        raise model_error(path, *problems)
    header = read_header(path)
    family = FACTS[kind_of(header.shapes)]
    predicted = given or find_prediction(path, family, header)
    own: dict[str, Any] = {"prediction_type": predicted}
    if says_zero_snr(header):
        own |= ZERO_SNR_CHANGES
    small_files = with_scheduler(shipped_files(family.name), {**own, **scheduler_changes})
    dtypes = {part.name: stored_dtype(header, part.prefix) for part in family.parts}
    return ModelFile(path, family.name, small_files, dtypes)


def num_text_layers(source: ModelSource) -> dict[str, int]:
    """How many layers each text encoder has, by its name."""
    encoders = FACTS[source.family].text_encoders
    return {encoder.name: source.config(encoder.config)["num_hidden_layers"] for encoder in encoders}


def shipped_files(family: str) -> dict[str, bytes]:
    """The configs and the tokenizer of a family, by their paths in a diffusers folder."""
    own, common = CONFIGS / family, CONFIGS / "tokenizer"
    files: dict[str, bytes] = {}
    for file in (common / name for name in TOKENIZER_FILES):
        if file.is_file():
            files |= dict.fromkeys([f"{folder}/{file.name}" for folder in FACTS[family].tokenizers], file.read_bytes())
    for file in sorted(own.rglob("*.*")):
        if file.is_file():
            files[file.relative_to(own).as_posix()] = file.read_bytes()
    return files


def _load_network(source: ModelFile, part: PartFacts, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A UNet or VAE by its config, with exactly these weights."""
    with torch.device("meta"):
        module = build_network(part, source.config(part.config))
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if mismatch := _mismatch(source, part, shapes, tensors):
        raise model_error(source.path, mismatch)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


def _mismatch(
    source: ModelFile, part: PartFacts, wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor]
) -> Problem | None:
    """Why these tensors cannot be the part: another size, or some are missing."""
    if any(tensor.shape != wanted[name] for name, tensor in given.items() if name in wanted):
        title = FACTS[source.family].title
        what = f"it is not the size of {title} (some experimental models are smaller)."
        return Problem(part.name, what, "Use it as a diffusers folder, which records its own size.")
    missing = sorted(wanted.keys() - given.keys())
    if missing:
        what = f"{len(missing)} of its {len(wanted)} tensors are missing, such as {missing[0]}."
        return Problem(part.name, what, GET_AGAIN)
    return None


def _load_text_encoder(source: ModelFile, part: PartFacts, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The text encoder with exactly these weights; transformers translates their names to those of its version.

    Raises:
        ValueError: weights are missing, too many, or of other shapes.
    """
    kind = part_class(part)
    config = kind.config_class(**source.config(part.config))
    load = partial(kind.from_pretrained, None, config=config, state_dict=tensors, output_loading_info=True)
    module, info = load(dtype=torch.float32)
    wrong = []
    for problem in ("missing_keys", "unexpected_keys"):
        names = sorted(map(str, info.get(problem) or ()))
        if names:
            wrong.append(f"{problem.replace('_', ' ')}: {names[0]}")
    if wrong:
        raise ValueError(", ".join(wrong))
    return module


class WithVae:
    """A base model whose VAE is another one's."""

    def __init__(self, base: ModelSource, vae: VaeFiles) -> None:
        self._read, self._vae = base.read, vae
        self.path, self.family = base.path, base.family
        self._facts = FACTS[base.family].part(VAE)
        own_config = {**shipped_files(base.family), **base.small_files}[self._facts.config]
        self.small_files = {**base.small_files, self._facts.config: vae.config or own_config}
        self.dtypes = {**base.dtypes, VAE: stored_dtype(vae.header, vae.prefix)}
        self.tokenizer, self.extra = base.tokenizer, base.extra

    def config(self, name: str) -> dict[str, Any]:
        """The content of one of the small JSON files."""
        return dict(json.loads(self.small_files[name]))

    def read(self, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Read one part, a VAE always in fp32. Raises ModelError."""
        if part != VAE:
            return self._read(part, dtype)
        try:
            with torch.device("meta"):
                module = build_network(self._facts, self.config(self._facts.config))
            given = vae_tensors(self._vae_tensors())
        except (ModelError, SafetensorError, OSError):
            raise
        except Exception as error:  # a wrong config can fail in many ways
            raise _vae_error(self._vae.path, Problem(None, f"{first_line(error)}.", VAE_AGAIN)) from error
        wanted = module.state_dict()
        for name, tensor in wanted.items():
            if name not in given:
                raise _vae_error(self._vae.path, Problem(None, f"{name} is missing.", VAE_AGAIN))
            if given[name].shape != tensor.shape:
                raise _vae_error(self._vae.path, Problem(None, f"{name} is of another size.", VAE_AGAIN))
        module.load_state_dict({name: given[name] for name in wanted}, strict=True, assign=True)
        if problem := weights_problem(module.float().state_dict()):
            raise _vae_error(self._vae.path, Problem(None, f"{problem}.", VAE_AGAIN))
        return module

    def _vae_tensors(self) -> dict[str, Tensor]:
        tensors, prefix = {}, self._vae.prefix
        for path in self._vae.weights.files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.startswith(prefix):
                        tensors[name.removeprefix(prefix)] = file.get_tensor(name).clone()
        return tensors


def _open_vae(path: Path, family: str) -> VaeFiles:
    """Find a VAE for a model of this family, without reading its weights. Raises ModelError."""
    try:
        return find_vae(path, FACTS[family])
    except ModelError as error:
        raise _vae_error(path, *error.problems) from None


def _vae_error(path: Path, *problems: Problem) -> ModelError:
    return ModelError(f"The VAE {printable(str(path), 1000)} cannot be used:", problems)
