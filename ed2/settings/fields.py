"""The schema as a flat list of fields, from which flags, files, the form and the docs are made."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ed2.settings.schema import Group, IsPath, OneOf, Settings

LABELS = {
    "data_root": "Image folders",
    "cond_dropout": "Caption dropout",
    "flip_p": "Mirror probability",
    "keep_tags": "Tags kept in place",
    "lora_rank": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_layers": "Layers of a LoRA",
    "lora_dora": "DoRA",
    "lora_dropout": "LoRA dropout",
    "lora_base": "Base model of a LoRA, if moved",
    "caption_chunks": "Caption length (chunks of 75 tokens)",
    "follow_links": "Follow links to other folders",
    "alpha_background": "Background of transparent images",
    "write_schedule": "Image list per step",
    "decode_threads": "Image loading threads",
    "max_epochs": "Epochs",
    "num_processes": "Processes (GPUs)",
    "resume_ckpt": "Base model or checkpoint",
    "weights_only": "Use only the weights",
    "vae": "VAE",
    "model_dirs": "Folders of base models",
    "disable_unet_training": "Freeze UNet",
    "disable_textenc_training": "Freeze text encoder",
    "disable_textenc_2_training": "Freeze second text encoder",
    "amp": "Mixed precision (amp)",
    "amp_dtype": "Mixed precision format",
    "grad_accum": "Gradient accumulation (batches)",
    "attn_type": "Attention",
    "channels_last": "Channels-last memory format",
    "tf32": "TF32",
    "cudnn_benchmark": "Try cuDNN algorithms",
    "torch_compile": "Compile the UNet (torch.compile)",
    "deterministic": "Deterministic results",
    "useadam8bit": "8-bit Adam",
    "lr": "Learning rate",
    "lr_scheduler": "Learning rate schedule",
    "lr_warmup_steps": "Learning rate warm-up (steps)",
    "lr_decay_steps": "Learning rate decay end (step)",
    "clip_grad_norm": "Gradient clipping (max norm)",
    "text_encoder_lr": "Text encoder learning rate",
    "text_encoder_2_lr": "Second text encoder learning rate",
    "text_encoder_lr_scheduler": "Text encoder learning rate schedule",
    "text_encoder_lr_warmup_steps": "Text encoder warm-up (steps)",
    "text_encoder_lr_decay_steps": "Text encoder decay end (step)",
    "unfreeze_last_n_layers": "Trained text encoder layers (last n)",
    "freeze_embeddings": "Freeze text encoder embeddings",
    "freeze_final_layer_norm": "Freeze final layer norm",
    "loss_type": "Loss function",
    "min_snr_gamma": "Min-SNR gamma",
    "timestep_start": "Start timestep",
    "timestep_end": "End timestep (exclusive)",
    "zero_frequency_noise_ratio": "Offset noise",
    "pyramid_noise_discount": "Pyramid noise discount",
    "enable_zero_terminal_snr": "Zero terminal SNR",
    "clip_skip": "CLIP skip (layers)",
    "ema_decay_rate": "EMA decay rate",
    "ema_strength_target": "EMA strength target",
    "ema_update_interval": "EMA update interval (steps)",
    "ema_device": "EMA device",
    "ema_sample_nonema_model": "Sample with the trained weights",
    "ema_sample_ema_model": "Sample with the EMA",
    "ema_resume_model": "EMA start weights",
    "sample_prompts": "Prompt file",
    "sample_steps": "Sample interval (steps)",
    "val_split_mode": "Validation images",
    "auto_split_proportion": "Validation fraction",
    "manual_data_root": "Validation folder",
    "extra_manual_datasets": "More validation folders",
    "stabilize_training_loss": "Measure stabilised training loss",
    "stabilize_split_proportion": "Stabilised training loss fraction",
    "every_n_epochs": "Validation interval (epochs)",
    "val_seed": "Validation seed",
    "val_batch_size": "Validation batch size",
    "image_loss_every_n_epochs": "Loss per image, interval (epochs)",
    "ckpt_every_n_minutes": "Save interval (minutes)",
    "save_every_n_epochs": "Save interval (epochs)",
    "save_ckpts_from_n_epochs": "Epochs before saving by epochs",
    "save_ckpt_dir": "Folder for single files",
    "no_save_ckpt": "No single files",
    "ckpt_format": "Single file format",
    "export_dtype": "Single file precision",
    "save_full_precision": "Full-precision single files",
    "keep_last": "Checkpoints to keep",
    "no_prepend_last": "No last- prefix on the final checkpoint",
    "logdir": "Folder for runs",
    "log_step": "Log interval (steps)",
}
"""Labels in the form, for settings whose name does not read well."""


@dataclass(frozen=True)
class FieldSpec:
    """One setting, with the parts of its type."""

    name: str
    group: str
    kind: type
    """bool, int, float or str; of the items when `many`."""
    optional: bool
    many: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    low: float | None
    low_excluded: bool
    """Whether `low` itself is not allowed."""
    high: float | None
    is_path: bool

    @property
    def is_plain_switch(self) -> bool:
        """Whether its own name is negative, so that no `--no-` form is needed."""
        return self.name.startswith(("no_", "disable_"))

    @property
    def type_name(self) -> str:
        """The type in words: "a whole number from 1 to 256"."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[self.kind]
        if self.many:
            words = "two numbers"  # the schema only has pairs
        if self.is_path and self.many:
            words = "a list of folders"
        elif self.is_path:
            words = "a file or folder"
        if self.low is None:
            return words
        if self.high is None:
            return f"{words} {'above' if self.low_excluded else 'of at least'} {self.low:.10g}"
        if self.low_excluded:
            return f"{words} above {self.low:.10g} and up to {self.high:.10g}"
        return f"{words} from {self.low:.10g} to {self.high:.10g}"


def _parts(annotation: object, metadata: list[object]) -> Iterator[object]:
    """Yield the innermost types and all metadata of a nested annotation."""
    for part in metadata:
        if isinstance(part, FieldInfo):
            yield from part.metadata
        else:
            yield part
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        yield from _parts(inner, extra)
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _parts(member, [])
    elif origin is tuple:
        yield tuple
        yield from _parts(get_args(annotation)[0], [])
    else:
        yield annotation


def _choices(parts: list[object]) -> tuple[Any, ...]:
    for part in parts:
        if get_origin(part) is Literal:
            return get_args(part)
        if isinstance(part, OneOf):
            return tuple(part.choices)
    return ()


def _bound(parts: list[object], *kinds: str) -> float | None:
    """The first bound of these kinds: "ge", "gt", "le" or "lt"."""
    for kind in kinds:
        for part in parts:
            if hasattr(part, kind):
                return float(getattr(part, kind))
    return None


def _spec(group: str, name: str, info: FieldInfo) -> FieldSpec:
    parts = list(_parts(info.annotation, list(info.metadata)))
    kinds = [part for part in parts if part in (bool, int, float, str)]
    choices = _choices(parts)
    return FieldSpec(
        name=name,
        group=group,
        kind=kinds[0] if kinds else type(choices[0]),
        optional=type(None) in parts,
        many=tuple in parts,
        default=info.default,
        help=(info.description or "").replace("\n", " "),
        choices=choices,
        low=_bound(parts, "ge", "gt"),
        low_excluded=_bound(parts, "gt") is not None,
        high=_bound(parts, "le", "lt"),
        is_path=any(isinstance(part, IsPath) for part in parts),
    )


def label_of(name: str) -> str:
    """The label of a setting in the form."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def groups() -> dict[str, type[Group]]:
    """The groups of the schema by name, in order; a group's docstring is its title."""
    return {name: type(info.default) for name, info in Settings.model_fields.items()}


@cache
def fields() -> dict[str, FieldSpec]:
    """All settings by their flat name, in the order of the schema."""
    specs = {}
    for group, model in groups().items():
        for name, info in model.model_fields.items():
            specs[name] = _spec(group, name, info)
    return specs
