"""The content of a checkpoint: a run at one step, ready to be written while training continues, or before it does."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ed2.checkpoint.optimizer_state import changed_options, flatten_state, states_elsewhere
from ed2.models.base import saved_parts, trained_parts
from ed2.models.families.facts import FACTS
from ed2.models.files.folder_problems import EXTRA_FILE
from ed2.models.files.lora_base import BASE_FILE, LORA_FILE
from ed2.models.files.tensor_file import bytes_of
from ed2.models.memory import release_pinned_memory
from ed2.training.optimizers import averages
from ed2.training.recovery import require_savable
from ed2.training.state import Run

FORMAT = 2
"""Of the training state. Format 1 had no manifest and is otherwise the same."""
FORMATS_READ = (1, 2)
PINNED_ROUNDING = 1.32
"""What PyTorch takes of memory that is pinned for a GPU, as a multiple of what it is asked for: it rounds the memory of
each tensor up to a power of two. For the UNet of SD 1.x that is 1.21, for that of SDXL 1.31."""
LOST_STATE = "lost_optimizer_state"
"""Entry of a training state without the optimizer state of a process that was lost."""

Tensors = Mapping[str, Tensor]
Take = Callable[[Tensor], Tensor]
"""Returns what a snapshot holds for a tensor: a copy or the tensor itself."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one step, without the run itself, so that another thread can write it.

    Attributes:
        small_files: the files of the model's folder except its weights, by path.
        weights: the tensors of each part that is saved, by their names in its file.
        is_lora: whether these are adapters, which are all in one file.
        extra: tensors that only a single file contains.
        state_tensors: tensors of the training state, by the stem of their file.
        state: the rest of the training state.
        averages: moving averages of the trained parts; empty if there are none.
        about: what the manifest says besides the files.
    """

    step: int
    epoch: int
    family: str
    prediction_type: str
    small_files: Mapping[str, bytes]
    weights: Mapping[str, Tensors]
    extra: Tensors
    state_tensors: Mapping[str, Tensors]
    state: bytes
    averages: Mapping[str, Tensors]
    about: Mapping[str, Any]
    is_lora: bool = False

    def model_files(self, *, averaged: bool) -> dict[str, Tensors]:
        """The tensor files of the model, by their path in its folder."""
        weights = dict(self.weights)
        if averaged:
            weights = {part: {**named, **self.averages.get(part, {})} for part, named in weights.items()}
        if self.is_lora:
            adapters: dict[str, Tensor] = {}
            for named in weights.values():
                adapters |= named
            return {LORA_FILE: adapters}
        files: dict[str, Tensors] = {}
        if self.extra:
            files[EXTRA_FILE] = self.extra
        for part, named in weights.items():
            files[FACTS[self.family].part(part).file] = named
        return files


@dataclass
class HostBuffers:
    """Main memory for copies of tensors, kept from one snapshot to the next: new memory takes longer than copying.

    Attributes:
        num_bytes: how much there is.
    """

    num_bytes: int = 0
    _free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = field(default_factory=dict)
    _used: list[Tensor] = field(default_factory=list)

    def reuse(self) -> None:
        """Begin a new snapshot; the one before must not be needed any more."""
        for buffer in self._used:
            self._free.setdefault((buffer.shape, buffer.dtype), []).append(buffer)
        self._used.clear()

    def missing(self, num_bytes: int, device: torch.device) -> int:
        """Main memory, in bytes, that a copy of `num_bytes` from a device takes beyond these buffers."""
        more = max(0, num_bytes - self.num_bytes)
        return round(PINNED_ROUNDING * more) if device.type == "cuda" else more

    def take(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of `tensor` in main memory, pinned for a GPU, from which it comes several times faster."""
        waiting = self._free.get((tensor.shape, tensor.dtype))
        if waiting:
            buffer = waiting.pop()
        else:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self.num_bytes += buffer.nbytes
        self._used.append(buffer)
        # Begun, not waited for: `finish` waits once for all.
        return buffer.copy_(tensor.detach(), non_blocking=tensor.is_cuda)

    def finish(self, device: torch.device) -> None:
        """Wait until all copies are complete, and free what this snapshot did not use."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.num_bytes -= sum(buffer.nbytes for buffer in chain(*self._free.values()))
        self._free.clear()

    def clear(self) -> None:
        """Free everything, for other programs too; the snapshot that uses it must not be needed any more."""
        self._free.clear()
        self._used.clear()
        self.num_bytes = 0
        release_pinned_memory()


def take_snapshot(
    run: Run,
    run_name: str,
    about: Mapping[str, Any],
    buffers: HostBuffers | None,
    lora_base: bytes | None,
) -> Snapshot:
    """Capture `run` as it is now.

    Args:
        run: between two steps.
        run_name: goes into the training state.
        about: goes there too.
        buffers: where all that training changes is copied to, so that it can continue. None copies nothing: the
            snapshot has to be written before the next step.
        lora_base: the record of the base model, if a LoRA is trained.

    Raises:
        CheckpointError: the weights are not worth saving: not finite, or from an incomplete update.
    """
    require_savable(run)
    content = _content(run, buffers.take if buffers else torch.detach)
    if buffers:
        buffers.finish(run.objective.device)
    model, step = run.model, run.state.step
    saved_at = datetime.now(UTC).isoformat(timespec="microseconds")
    state = {"run": run_name, "saved_at": saved_at, **_state_values(run, content.numbers), **about}
    told = {"validation": about.get("validation"), "versions": about.get("versions", {})}
    return Snapshot(
        step=step,
        epoch=run.state.epoch,
        family=model.facts.name,
        prediction_type=model.process.prediction_type,
        small_files=model.source.small_files if lora_base is None else {BASE_FILE: lora_base},
        is_lora=lora_base is not None,
        weights=content.weights,
        extra=model.extra,
        state_tensors=content.state,
        state=json.dumps(state, indent=1).encode(),
        averages=content.averages,
        about={"step": step, "saved_at": saved_at, **told},
    )


def bytes_to_copy(run: Run) -> int:
    """How much main memory a copied snapshot of `run` takes."""
    weights = sum(bytes_of(part.saved()) for part in trained_parts(run.model).values())
    return weights + state_bytes(run)


def state_bytes(run: Run) -> int:
    """How many bytes the tensors of the training state take, in memory and on the disk."""
    tensors: list[Tensor] = []
    for network, optimizer in run.optimizers.by_network.items():
        for values in optimizer.state.values():
            tensors += [value for value in values.values() if isinstance(value, Tensor)]
        if averages(optimizer):
            tensors += run.model.parts[network].parameters().values()
    for named in run.ema.state().values():
        tensors += named.values()
    return sum(tensor.nbytes for tensor in tensors) + run.optimizers.bytes_elsewhere


def to_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in main memory; never the tensor itself, even if it is there already."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def trained_stem(network: str) -> str:
    """Stem of the file with a network's weights as trained, for checkpoints that hold their average."""
    return f"trained-{network}"


def ema_stem(network: str) -> str:
    """Stem of the file with the moving average of a network's weights."""
    return f"ema-{network}"


@dataclass(frozen=True)
class _Content:
    """The tensors of a snapshot as `Snapshot` has them, and the numbers of the optimizers by network."""

    weights: dict[str, Tensors]
    averages: dict[str, Tensors]
    state: dict[str, Tensors]
    numbers: dict[str, Any]


def _content(run: Run, take: Take) -> _Content:
    state, numbers = _optimizer_states(run, take)
    average: dict[str, Tensors] = {}
    for network, named in run.ema.state().items():
        own = {name: take(tensor) for name, tensor in named.items()}
        state[ema_stem(network)] = own
        part = run.model.parts[network]
        average[network] = {part.saved_name(name): tensor for name, tensor in own.items()}
    return _Content(_weights(run, take), average, state, numbers)


def _weights(run: Run, take: Take) -> dict[str, Tensors]:
    """The weights of each part: trained ones as they are trained, the others as they are in the base model."""
    weights: dict[str, Tensors] = {}
    with run.optimizers.averaged():
        for part in saved_parts(run.model).values():
            named = part.saved()
            if part.is_trained:
                # `averaged` swaps the weights back at the end of this block.
                own = to_host if averages(run.optimizers.by_network[part.name]) else take
                named = {name: own(tensor) for name, tensor in named.items()}
            weights[part.name] = named
    return weights


def _optimizer_states(run: Run, take: Take) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The tensors of the optimizers by the stem of their file, and their numbers by network."""
    tensors: dict[str, Tensors] = {}
    numbers: dict[str, Any] = {}
    elsewhere: dict[str, dict[str, Any]] = {}
    if run.optimizers.shards.owners and run.ranks.is_whole:
        elsewhere = states_elsewhere(run.optimizers, run.ranks)
    for network, optimizer in run.optimizers.by_network.items():
        own = flatten_state(optimizer, take, elsewhere.get(network, {}))
        tensors[f"optimizer-{network}"], numbers[network] = own
        if averages(optimizer):
            parameters = run.model.parts[network].parameters()
            tensors[trained_stem(network)] = {name: take(parameter) for name, parameter in parameters.items()}
    return tensors, numbers


def _state_values(run: Run, numbers: Mapping[str, Any]) -> dict[str, Any]:
    optimizers = {}
    for name, optimizer in run.optimizers.by_network.items():
        options = changed_options(optimizer)
        optimizers[name] = {"class": type(optimizer).__name__, "numbers": numbers[name], "options": options}
    lost = {}
    if run.optimizers.shards.owners and not run.ranks.is_whole:
        lost = {LOST_STATE: True}  # with a process; what is left is worth more than nothing
    return {
        **lost,
        "format": FORMAT,
        "state": run.state.as_dict(),
        "steps_per_epoch": run.steps_in(run.state.epoch),
        "metrics": run.metrics.state(),
        "scaler": run.precision.scaler.state_dict(),
        "optimizers": optimizers,
    }
