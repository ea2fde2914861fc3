"""Translates flags and files of EveryDream 2 into our settings, with notes on what became of each name.

A name that is also a setting is read as the setting.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ed2.settings.fields import fields

Values = dict[str, object]
COLUMNS = 100
"""Width of the notes on a file."""
DEAD: Mapping[str, str] = {
    "wandb": "curves and samples are written for TensorBoard, and nothing is sent to a server",
    "notebook": "the progress display adapts to the terminal",
    "plugins": "external code is not run; what the included plugins did is built in",
    "hf_repo_subfolder": "EveryDream 2 dropped it too",
    "ed1_mode": "EveryDream 2 dropped it too",
    "use_relative_loss": "EveryDream 2 reads it but never uses it",
    "text_encoder_lr_scale": "EveryDream 2 never reads it; text_encoder_lr sets the learning rate of the text encoder",
}
"""Names that have no effect here, with the reason."""

ALWAYS: Mapping[str, str] = {
    "save_optimizer": "the optimizer state is always saved, so that a run can be resumed exactly",
    "apply_grad_scaler_step_tweaks": "the fp16 scaler finds its scale automatically",
    "log_grad_norm": "the gradient norm is always logged, as optimizer/grad_norm",
}
"""Names whose effect is always on."""

LATER: Mapping[str, str] = {
    "rated_dataset": "rated datasets",
    "rated_dataset_target_dropout_percent": "rated datasets",
    "load_settings_every_epoch": "reading settings again during a run",
    "chain": "a chain of runs",
    "chains": "a chain of runs",
    "chain_file": "a chain of runs",
}
"""Names of features that are not supported yet, with the feature."""

TEXTS = ("doc", "docs", "comment", "_comment")
"""Keys that hold comments."""

ALIASES: Mapping[str, str] = {
    "disable_amp": "`amp` off",
    "gpuid": "`device cuda:N`",
    "disable_xformers": "`attn_type sdp`",
    "train_sampler": "accepted without effect: all three add noise in the same way",
    "lowvram": "gradient checkpointing, batch 1, accumulation 1, resolution at most 512, 8-bit Adam",
    "optimizer_config": "its keys are read as settings; the settings file and the command line override them",
    "validation_config": "its keys are read as settings; the settings file and the command line override them",
    "scale_lr": "the learning rates times (batch_size x grad_accum) ^ 0.55",
    "repeats": "multiplies `max_epochs`: 50 repeats x 5 epochs are 250 epochs",
    "config": "the settings file",
}
"""Names that are read as other settings, with what they mean; `config` is the file itself."""

OPTIMIZER_KEYS = """
optimizer lr lr_scheduler lr_warmup_steps lr_decay_steps betas epsilon weight_decay
d0 decouple momentum no_prox growth_rate safeguard_warmup
""".split()
FREEZING_KEYS = ("unfreeze_last_n_layers", "freeze_embeddings", "freeze_final_layer_norm", "freeze_front_n_layers")
VALIDATION_KEYS: Mapping[str, str] = {
    "batch_size": "val_batch_size",
    "seed": "val_seed",
    "val_split_mode": "val_split_mode",
    "auto_split_proportion": "auto_split_proportion",
    "val_split_proportion": "auto_split_proportion",
    "manual_data_root": "manual_data_root",
    "val_data_root": "manual_data_root",
    "extra_manual_datasets": "extra_manual_datasets",
    "stabilize_training_loss": "stabilize_training_loss",
    "stabilize_split_proportion": "stabilize_split_proportion",
    "every_n_epochs": "every_n_epochs",
}
SECTIONS = {"base": "", "text_encoder_overrides": "text_encoder_", "text_encoder_freezing": ""}
"""Sections of the optimizer file, with the prefix of our names for their keys."""

ORIGINAL = """
config amp disable_amp attn_type batch_size ckpt_every_n_minutes save_every_n_epochs
save_ckpts_from_n_epochs save_ckpt_dir save_full_precision save_optimizer no_save_ckpt
no_prepend_last clip_grad_norm clip_skip cond_dropout data_root disable_textenc_training
disable_unet_training embedding_perturbation flip_p gpuid gradient_checkpointing grad_accum logdir
log_step loss_type lr lr_decay_steps lr_scheduler lr_warmup_steps max_epochs optimizer_config
plugins project_name run_name resolution resume_ckpt sample_prompts sample_steps seed shuffle_tags
keep_tags timestep_start timestep_end train_sampler validation_config wandb write_schedule
rated_dataset rated_dataset_target_dropout_percent zero_frequency_noise_ratio pyramid_noise_discount
enable_zero_terminal_snr min_snr_gamma load_settings_every_epoch ema_decay_rate ema_strength_target
ema_update_interval ema_device ema_sample_nonema_model ema_sample_ema_model ema_resume_model
notebook disable_xformers lowvram scale_lr useadam8bit ed1_mode hf_repo_subfolder
""".split()
"""Every flag and key of its train.json, including those of older versions."""


@dataclass
class Translated:
    """Settings by our names, and what to report.

    Attributes:
        values: the settings.
        notes: sentences on names that are not simply kept.
        kept: names that are kept.
        unset: names that are null.
        off: names without effect here that were turned off there.
    """

    values: Values = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)

    def notes_for(self, file: str) -> list[str]:
        """What became of every name of a file, as one note of several lines."""
        groups = {"used": self.kept, "not set": self.unset, "turned off, and without effect here": self.off}
        lists = [f"{title}: {', '.join(names)}." for title, names in groups.items() if names]
        if not lists:
            return self.notes
        lines = [f"Read {file} of EveryDream 2:"]
        for text in (*lists, *self.notes):
            lines.append(
                textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
            )
        return ["\n".join(lines)]

    @property
    def is_from_original(self) -> bool:
        """Whether a name shows that the file was written for EveryDream 2."""
        return bool(self.notes or self.off)


LOWVRAM = {"gradient_checkpointing": True, "batch_size": 1, "grad_accum": 1, "useadam8bit": True}
LOWVRAM_RESOLUTION = 512
SCALE_EXPONENT = 0.55


def translated(given: Mapping[str, object]) -> Translated:
    """The settings that names of EveryDream 2 stand for; unknown names are passed on unchanged."""
    result = Translated()
    for name, value in given.items():
        if value is None and not (name in fields() and fields()[name].optional):
            result.unset.append(name)  # its files use null for "not set"
        elif name in fields():
            result.values[name] = _as_ours(name, value)
            (result.unset if value is None else result.kept).append(name)
        elif name in _ALIASES:
            _ALIASES[name](result, value)
        elif name == "config":  # in files that EveryDream 2 wrote itself
            result.off.append(name)
        elif not _has_no_effect(result, name, value) and name not in TEXTS:
            result.values[name] = value
    return result


def _has_no_effect(result: Translated, name: str, value: object) -> bool:
    """Whether a name has no effect here; adds a note on it, unless it is a switch that is off."""
    reason = ""
    if name in DEAD:
        reason = f"{name} has no effect: {DEAD[name]}."
    elif name in ALWAYS:
        reason = f"{name} is not needed: {ALWAYS[name]}."
    elif name in LATER or name in ORIGINAL:
        reason = f"{name} has no effect: {LATER.get(name, 'this')} is not supported yet."
    if reason and value not in (None, False):
        result.notes.append(reason)
    elif reason:
        result.off.append(name)
    return bool(reason)


def from_optimizer_file(content: Mapping[str, object]) -> Translated:
    """The settings of an `optimizer.json`: base, text_encoder_overrides and text_encoder_freezing."""
    result = Translated()
    for section, values in content.items():
        if section in SECTIONS and isinstance(values, Mapping):
            prefix = SECTIONS[section]
            for name, value in values.items():
                _take(result, f"{section}.{name}", f"{prefix}{name}", name, value)
        elif not _has_no_effect(result, section, values) and section not in TEXTS:
            result.notes.append(f"{section} in the optimizer file is unknown and ignored.")
    return result


def from_validation_file(content: Mapping[str, object]) -> Translated:
    """The settings of a `validation_default.json`; missing values are those of EveryDream 2."""
    result = Translated(values={"val_split_mode": "automatic"})
    for name, value in content.items():
        if value is None:
            result.unset.append(name)
        elif name in VALIDATION_KEYS:
            ours = VALIDATION_KEYS[name]
            result.values[ours] = _as_ours(ours, value)
            result.kept.append(name)
        elif name == "validate_training":
            result.kept.append(name)
        elif not _has_no_effect(result, name, value) and name not in TEXTS:
            result.notes.append(f"{name} in the validation file is unknown and ignored.")
    if content.get("validate_training", True) in (False, "false"):
        result.values["val_split_mode"] = "none"
    return result


def _take(result: Translated, where: str, ours: str, name: str, value: object) -> None:
    """Read one key of an optimizer file, if it is set and we have such a setting."""
    if name in TEXTS:
        return
    if value is None:
        result.unset.append(where)
        return
    if name == "freeze_front_n_layers" and isinstance(value, int) and value < 0:  # freezes all but the last -value
        ours, value = "unfreeze_last_n_layers", -value
    if ours in fields():
        result.values[ours] = _as_ours(ours, value)
        result.kept.append(where)
    elif name in DEAD:
        result.notes.append(f"{where} has no effect: {DEAD[name]}.")
    elif name in OPTIMIZER_KEYS or name in FREEZING_KEYS:
        result.notes.append(f"{where} has no effect: it is not supported yet.")
    else:
        result.notes.append(f"{where} is unknown and ignored.")


def _as_ours(name: str, value: object) -> object:
    """A value of EveryDream 2 in the form of our setting."""
    if name == "data_root":
        return _roots(value)
    if name == "extra_manual_datasets" and isinstance(value, Mapping):
        return [f"{key}={folder}" for key, folder in value.items()]
    # Its files often hold whole numbers where our setting is a float.
    spec = fields()[name]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if spec.kind is float and is_whole and not spec.many:
        return float(value)  # type: ignore[arg-type]
    return value


def _roots(value: object) -> object:
    """The folders and manifests of a data_root in any form that EveryDream 2 accepts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        inner = value.get("resolvers", value.get("path"))
        return value if inner is None or isinstance(inner, Mapping) else _roots(inner)
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        found: list[object] = []
        for item in value:
            roots = item
            if isinstance(item, str | Mapping):
                roots = _roots(item)
            found += roots if isinstance(roots, list) else [roots]
        return found
    return value


def _disable_amp(result: Translated, value: object) -> None:
    result.values["amp"] = not value if isinstance(value, bool) else value
    _note_alias(result, "disable_amp", value)


def _gpuid(result: Translated, value: object) -> None:
    result.values["device"] = f"cuda:{value}" if value != 0 else "auto"
    _note_alias(result, "gpuid", value)


def _disable_xformers(result: Translated, value: object) -> None:
    if value:
        result.values["attn_type"] = "sdp"
    _note_alias(result, "disable_xformers", value)


def _note_alias(result: Translated, name: str, value: object) -> None:
    if value:
        result.notes.append(f"{name} is read as {ALIASES[name].replace('cuda:N', f'cuda:{value}')}.")
    else:
        result.off.append(name)


def _pass(name: str) -> Callable[[Translated, object], None]:
    def keep(result: Translated, value: object) -> None:
        result.values[name] = value
        result.kept.append(name)

    return keep


def _train_sampler(result: Translated, value: object) -> None:
    if value not in (None, "ddpm"):
        result.notes.append("train_sampler has no effect: ddpm, pndm and ddim all add noise in the same way.")
    else:
        result.off.append("train_sampler")


_ALIASES: Mapping[str, Callable[[Translated, Any], None]] = {
    "disable_amp": _disable_amp,
    "gpuid": _gpuid,
    "disable_xformers": _disable_xformers,
    "train_sampler": _train_sampler,
    **{name: _pass(name) for name in ("lowvram", "scale_lr", "repeats", "optimizer_config", "validation_config")},
}
LEGACY_FLAGS = (*_ALIASES, *DEAD, *LATER, "save_optimizer")
"""Flags of EveryDream 2 that are not settings here."""
