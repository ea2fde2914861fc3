"""What a run will be, decided before anything is built: settings, origin, images, machine; and how it is passed on."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import ed2
from ed2.app.images.scanning import ValidationSplit
from ed2.app.preflight import ModelSizes
from ed2.checkpoint.resume import Checkpoint
from ed2.data.example import Dataset, Example, file_stamp
from ed2.data.image_config import Tag, TagShuffle
from ed2.errors import DatasetError, Problem, SettingsError
from ed2.models.base import ModelSource
from ed2.models.compute import choose_device, choose_dtype, computing
from ed2.models.files.description import ZERO_SNR_CHANGES
from ed2.models.files.lora_base import LoraBase, model_behind
from ed2.models.files.source import open_base
from ed2.ranks.base import Message, Ranks
from ed2.settings.files import with_defaults
from ed2.settings.schema import MemorySettings, Settings
from ed2.text import counted
from ed2.training.state import TrainState

AMP_IS_FOR_GPUS = "Mixed precision (amp) is off: it is for GPUs, and slower on a CPU."
TF32_IS_OFF = (
    "TF32 is off, since mixed precision (amp) is: everything is computed in fp32. To compute faster, with fewer bits, "
    "use --tf32 on."
)
BENCHMARK_IS_NOT_EXACT = (
    "cudnn_benchmark chooses by measurement, each time anew: after a resume the result is not the same byte for byte."
)
MAX_NAMED = 5
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "bitsandbytes", "pillow", "numpy")


@dataclass(frozen=True)
class Machine:
    """What the run computes on."""

    device: torch.device
    dtype: torch.dtype | None
    has_tf32: bool = False

    @classmethod
    def of(cls, settings: Settings, ranks: Ranks | None = None) -> "Machine":
        """Choose device and precision by the settings and by what this computer has; each process gets its own GPU.

        Raises:
            SettingsError: the device does not exist, or there are fewer GPUs than processes.
        """
        try:
            device = choose_device(_own_device(settings.run.device, ranks or Ranks()))
        except ValueError as error:
            raise SettingsError("1 setting is wrong:", [Problem("device", f"{error}.", "Use auto or cpu.")]) from None
        memory = settings.memory
        dtype = choose_dtype(device, amp=memory.amp, amp_dtype=memory.amp_dtype)
        if dtype is None and memory.weights_dtype == "bf16":
            dtype = torch.bfloat16  # what the weights are in; a CPU otherwise computes in fp32
        if dtype is torch.float16 and (memory.weights_dtype == "bf16" or memory.fused_backward):
            name = "fused_backward" if memory.fused_backward else "weights_dtype"
            what = f"{torch.cuda.get_device_name(device)} does not support bf16, and fp16 needs all gradients at once."
            raise SettingsError("1 setting is wrong:", [Problem(name, what, "Leave it out on this GPU.")])
        return cls(device, dtype, has_tf32=device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0))

    def computing(self, memory: MemorySettings) -> AbstractContextManager[None]:
        """How the device computes while a run with these settings trains."""
        return computing(
            self.device, exact=memory.deterministic, tf32=memory.uses_tf32, benchmark=memory.cudnn_benchmark
        )

    def notes(self, memory: MemorySettings) -> list[str]:
        """What was chosen about that for the user, and what follows from it, in sentences."""
        if self.device.type == "cpu":
            return [AMP_IS_FOR_GPUS] if memory.amp else []
        notes = []
        if self.has_tf32 and self.dtype is None and memory.tf32 is None:
            notes.append(TF32_IS_OFF)
        if memory.cudnn_benchmark and not memory.deterministic:
            notes.append(BENCHMARK_IS_NOT_EXACT)
        return notes

    @property
    def frozen_dtype(self) -> torch.dtype:
        """In which frozen parts compute; a CPU gains nothing from a short one."""
        return torch.float32 if self.dtype is None or self.device.type == "cpu" else self.dtype

    @property
    def name(self) -> str:
        """Of the GPU, or of the CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"

    def __str__(self) -> str:
        return f"{self.name} in {str(self.dtype or torch.float32).removeprefix('torch.')}"


@dataclass(frozen=True)
class RunSpec:
    """A run as `resolve` decided it. Nothing in it changes later.

    Attributes:
        settings: the effective ones, with absolute paths and the seed drawn.
        base: folder or file to read the weights from.
        vae: file or folder whose VAE takes the place of the base model's; None leaves it.
        source: the base model, without its weights read.
        lora_base: the record of the base model, if a LoRA is trained.
        sizes: how many weights the base model has.
        machine: device and precision.
        images: what is trained and what is validated.
        checkpoint: the one to resume; None starts at step 0.
        same_folder: whether the run continues in the folder of the checkpoint's run.
        needs_finishing: whether it stopped after its last step, before the samples and files that follow were finished.
        notes: sentences for the user.
    """

    settings: Settings
    base: Path
    vae: Path | None
    source: ModelSource
    sizes: ModelSizes
    machine: Machine
    images: ValidationSplit
    checkpoint: Checkpoint | None = None
    same_folder: bool = False
    needs_finishing: bool = False
    lora_base: LoraBase | None = None
    notes: tuple[str, ...] = ()

    @property
    def dataset(self) -> Dataset:
        """The images to train on."""
        return self.images.training

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done already."""
        return self.checkpoint is not None and self.checkpoint.state.epoch >= self.settings.run.max_epochs

    @property
    def continued(self) -> Checkpoint | None:
        """The checkpoint, if the run continues in its folder."""
        return self.checkpoint if self.same_folder else None

    def retried_from(self, checkpoint: Checkpoint | None, note: str) -> "RunSpec":
        """The spec to train the same run again with after a failed update; None starts where this spec does."""
        if checkpoint is None:
            return replace(self, notes=(note,))
        base = model_behind(checkpoint.path, self.settings.lora.lora_base)
        source = open_model(self.settings, base)
        return replace(self, base=base, vae=None, source=source, checkpoint=checkpoint, same_folder=True, notes=(note,))


def _own_device(setting: str, ranks: Ranks) -> str:
    """The setting of this process among several: with `auto` and `cuda`, each has a GPU of its own.

    Raises:
        SettingsError: there are not that many GPUs.
    """
    if ranks.size == 1 or setting == "cpu" or not torch.cuda.is_available():
        return setting
    count = torch.cuda.device_count()
    if setting.startswith("cuda:"):
        what = f"{setting} is one GPU, but each of {ranks.size} processes needs its own."
        problem = Problem("device", what, "Use auto, and choose GPUs with CUDA_VISIBLE_DEVICES.")
    elif ranks.local_size > count:
        what = f"{counted(ranks.local_size, 'process', 'processes')} need a GPU each, but PyTorch sees {count}."
        problem = Problem("num_processes", what, f"Use {count}.")
    else:
        return f"cuda:{ranks.local_rank}"
    raise SettingsError("1 setting is wrong:", [problem])


def open_model(settings: Settings, base: Path, vae: Path | None = None) -> ModelSource:
    """Open the base model without reading its weights; with `vae` in place of its own, if given.

    Raises:
        ModelError: it cannot be trained.
    """
    changes: dict[str, Any] = {}  # to the model's scheduler; checkpoints hold them too
    if settings.noise.enable_zero_terminal_snr:
        changes |= ZERO_SNR_CHANGES
    if settings.model.prediction_type:
        changes["prediction_type"] = settings.model.prediction_type
    return open_base(base, changes, vae)


def circumstances(machine: Machine) -> dict[str, Any]:
    """What the bytes of a result depend on besides settings and images."""
    threads = torch.get_num_threads() if machine.device.type == "cpu" else 0
    return {"versions": versions(), "device": str(machine), "threads": threads}


@functools.cache
def versions() -> dict[str, str]:
    """The versions of this program, of Python and of the packages that the result depends on."""
    found = {"everydream": ed2.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def as_message(spec: RunSpec, run_dir: Path, state: TrainState) -> Message:
    """What rank 0 tells the others of a run that is about to be built, as JSON: nothing of it can run code."""
    return {
        "settings": spec.settings.flat(),
        "base": str(spec.base),
        "vae": str(spec.vae) if spec.vae else None,
        "family": spec.sizes.family,
        "parameters": dict(spec.sizes.parameters),
        "checkpoint": str(spec.checkpoint.path) if spec.checkpoint else None,
        "same_folder": spec.same_folder,
        "lora_base": asdict(spec.lora_base) if spec.lora_base else None,
        "images": [_as_values(example) for example in spec.dataset.examples],
        "curves": {tag: [_as_values(example) for example in own] for tag, own in spec.images.curves.items()},
        "run_dir": str(run_dir),
        "state": state.as_dict(),
    }


def spec_of(message: Message, ranks: Ranks) -> RunSpec:
    """The run of a message as this process trains it, on its own device.

    Raises:
        Ed2Error: something of it is missing on this machine.
    """
    settings = with_defaults(message["settings"])
    examples = tuple(map(_example, message["images"]))
    if ranks.local_size < ranks.size:
        examples = _on_this_machine(examples)
    base, vae = Path(message["base"]), Path(message["vae"]) if message["vae"] else None
    curves = {tag: tuple(map(_example, own)) for tag, own in message["curves"].items()}
    dataset = Dataset(tuple(map(Path, settings.data.data_root)), examples, (), (), "")
    return RunSpec(
        settings=settings,
        base=base,
        vae=vae,
        source=open_model(settings, base, vae),
        sizes=ModelSizes(message["family"], message["parameters"]),
        machine=Machine.of(settings, ranks),
        images=ValidationSplit(dataset, curves),
        checkpoint=Checkpoint.open(Path(message["checkpoint"])) if message["checkpoint"] else None,
        same_folder=message["same_folder"],
        lora_base=_lora_base(message["lora_base"]),
    )


def _as_values(example: Example) -> dict[str, Any]:
    return {**asdict(example), "path": str(example.path)}


def _example(values: Mapping[str, Any]) -> Example:
    shuffle = values["shuffle"]
    if shuffle:
        shuffle = TagShuffle(**{**shuffle, "tags": tuple(Tag(*tag) for tag in shuffle["tags"])})
    own = {"path": Path(values["path"]), "size": tuple(values["size"]), "bucket": tuple(values["bucket"])}
    return Example(**{**values, **own, "shuffle": shuffle})


def _lora_base(values: Mapping[str, Any] | None) -> LoraBase | None:
    return LoraBase(**{**values, "attention_levels": tuple(values["attention_levels"])}) if values else None


def _on_this_machine(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The images as files of this machine, which may be copies with other times.

    Raises:
        DatasetError: some are missing, or of another size.
    """
    found, problems = [], []
    for example in examples:
        try:
            stamp = file_stamp(example.path.stat())
        except OSError:
            problems.append(Problem(str(example.path), "it is missing on this machine."))
            continue
        size_bits = (1 << 40) - 1
        if example.stamp is not None and (stamp ^ example.stamp) & size_bits:
            problems.append(Problem(str(example.path), "it is another file on this machine."))
        found.append(replace(example, stamp=stamp))
    if problems:
        more = [Problem(None, f"and {len(problems) - MAX_NAMED:,} more.")] if len(problems) > MAX_NAMED else []
        fix = Problem(None, "Share the folder, or copy it to the same path on every machine.")
        raise DatasetError("The images are not the same on every machine:", [*problems[:MAX_NAMED], *more, fix])
    return tuple(found)
