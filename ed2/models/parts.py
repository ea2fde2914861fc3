"""The parts of a model: networks, trained or frozen, whose weights may leave the device while nothing needs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Mode = Literal["frozen", "full", "lora"]
ADAPTER = "default"
"""Name of the adapter in peft, which stands within its tensors' names."""


@dataclass(eq=False)
class Part:
    """A network of a model, and how it is trained.

    Attributes:
        mode: frozen parts keep their weights; in the others everything that requires a gradient is trained, which in
            lora ones are adapters beside the weights.
        saved_prefix: prefix of its tensors' names in a checkpoint, whether or not the module in memory has it.
        stored: of a frozen part the tensors as the base has them, so that a checkpoint holds them unchanged whatever
            precision they are computed in.
    """

    name: str
    module: Any
    mode: Mode = "full"
    saved_prefix: str = ""
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    _home: torch.device | None = field(default=None, init=False, repr=False)
    _layouts: dict[str, tuple[torch.Size, tuple[int, ...]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_trained(self) -> bool:
        """Whether training changes it."""
        return self.mode != "frozen"

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters to train, by their names in the module."""
        if not self.is_trained:
            return {}
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def adapters(self) -> dict[str, nn.Parameter]:
        """Those of a LoRA, trained or frozen, by their names in the module."""
        return {name: parameter for name, parameter in self.module.named_parameters() if f".{ADAPTER}." in name}

    def saved(self) -> dict[str, Tensor]:
        """Its tensors in a checkpoint, by the names that every program reads; the tensors themselves, not copies."""
        tensors: Mapping[str, Tensor] = self.stored
        if self.mode == "full":
            tensors = self.module.state_dict()
        elif self.mode == "lora":
            tensors = {name: parameter.detach() for name, parameter in self.adapters().items()}
        return {self.saved_name(name): tensor for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors into the trained parameters, by the names of `saved` or of the module.

        Raises:
            KeyError: one is missing.
            RuntimeError: one has another shape.
        """
        for name, parameter in self.parameters().items():
            found = tensors.get(self.saved_name(name))
            if found is None:
                found = tensors[name]
            parameter.copy_(found)

    def leave(self) -> None:
        """Free the device of a frozen part's weights until `come_back`.

        What is saved of it is in main memory anyway. Of other parts the weights wait there, so on a CPU they stay.
        """
        home = next(self.module.parameters()).device
        if self.is_trained or self._home is not None or (home.type == "cpu" and not self.stored):
            return
        if self.stored:
            named = self.module.state_dict(keep_vars=True)
            self._layouts = {name: (tensor.shape, tensor.stride()) for name, tensor in named.items()}
            for tensor in named.values():
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=home)
        else:
            self.module.to("cpu")
        self._home = home
        if home.type == "cuda":
            torch.cuda.empty_cache()

    def come_back(self) -> None:
        """Bring the weights back bit by bit, if they are away. Whatever computes with the part does this."""
        if self._home is None:
            return
        if self.stored:
            for name, tensor in self.module.state_dict(keep_vars=True).items():
                # The memory layout decides the last bits of sums, so it is restored too.
                shape, stride = self._layouts[name]
                weights = torch.empty_strided(shape, stride, dtype=tensor.dtype, device=self._home)
                tensor.data = weights.copy_(self.stored[name])
        else:
            self.module.to(self._home)
        self._home = None

    def saved_name(self, name: str) -> str:
        """The name in a checkpoint of a tensor of the module."""
        prefixed = name if name.startswith(self.saved_prefix) else self.saved_prefix + name
        if self.mode != "lora":
            return prefixed
        # As diffusers name a LoRA: `unet.….to_q.lora_A.weight`.
        return f"{self.name}.{prefixed.replace(f'.{ADAPTER}.', '.')}"


RowKey = tuple[int | str, ...]
"""The key of the draws for one row of a batch in a network: of an image's visit, or of a chunk of its caption."""


class BatchVisits:
    """The visits of the images that are being trained, for what is drawn at random inside a network.

    Attributes:
        visits: in the order of the batch.
        chunks: how many chunks each one's caption has, if a text encoder is trained.
    """

    def __init__(self) -> None:
        self.visits: Sequence[RowKey] = ()
        self.chunks: Sequence[int] = ()

    def keys(self, num_rows: int) -> list[RowKey]:
        """The key of each row of a tensor: of the images, or of all chunks of their captions, caption by caption.

        Raises:
            ValueError: it has another number of rows.
        """
        chunks = self.chunks
        if num_rows == len(self.visits):
            chunks = [1] * num_rows
        keys: list[RowKey] = []
        for visit, count in zip(self.visits, chunks, strict=True):
            keys += [(*visit, n) for n in range(count)]
        if len(keys) != num_rows:
            raise ValueError(f"{num_rows} rows for {len(keys)} images or chunks of captions")
        return keys
