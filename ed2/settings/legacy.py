"""What becomes of the flags and keys of EveryDream 2: kept under their names, read as other settings, dead, or later.

Whatever is not kept is said, by name and with the reason. A name that stands here and is a setting as well is a
setting: the schema wins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ed2.settings.fields import fields

Values = dict[str, object]


@dataclass
class Translated:
    """Settings by our names, and what to tell."""

    values: Values = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


DEAD: Mapping[str, str] = {
    "wandb": "curves and samples are written for TensorBoard, and nothing is sent anywhere",
    "notebook": "the progress shows itself as the terminal allows",
    "plugins": "code from elsewhere is not run; what the shipped plugins did is built in",
    "hf_repo_subfolder": "the original dropped it as well",
    "ed1_mode": "the original dropped it as well",
    "use_relative_loss": "the original reads it and uses it nowhere",
    "text_encoder_lr_scale": "the original reads it nowhere; text_encoder_lr sets the rate of the text encoder",
}
"""Names that have no effect here, with the reason."""

ALWAYS: Mapping[str, str] = {
    "save_optimizer": "the state of the optimizer is always saved, so that a run goes on exactly",
    "apply_grad_scaler_step_tweaks": "the fp16 scaler finds its scale by itself",
    "log_grad_norm": "the length of the gradient is always logged, as optimizer/grad_norm",
}
"""Names whose effect is always there."""

LATER: Mapping[str, str] = {
    "rated_dataset": "rated datasets",
    "rated_dataset_target_dropout_percent": "rated datasets",
    "load_settings_every_epoch": "settings that are read again while a run goes on",
    "chain": "several runs after one another",
    "chains": "several runs after one another",
    "chain_file": "several runs after one another",
}
"""Names of what is not built yet, with what it is."""

TEXTS = ("doc", "docs", "comment", "_comment")
"""Keys that hold a text for people."""

LOWVRAM: Mapping[str, object] = {
    "gradient_checkpointing": True, "batch_size": 1, "grad_accum": 1, "useadam8bit": True,
}  # fmt: skip
LOWVRAM_RESOLUTION = 512
SCALE_EXPONENT = 0.55

OPTIMIZER_KEYS = (
    "optimizer", "lr", "lr_scheduler", "lr_warmup_steps", "lr_decay_steps", "betas", "epsilon", "weight_decay",
    "d0", "decouple", "momentum", "no_prox", "growth_rate", "safeguard_warmup",
)  # fmt: skip
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


def translated(given: Mapping[str, object]) -> Translated:
    """Return the settings that names of the original stand for; names that nobody knows pass unchanged."""
    result = Translated()
    for name, value in given.items():
        if name in fields():
            if value is not None or fields()[name].optional:  # the original's files write null for "not set"
                result.values[name] = _as_ours(name, value)
        elif name in _ALIASES:
            _ALIASES[name](result, value)
        elif not _is_told(result, name, value) and name not in TEXTS:
            result.values[name] = value
    return result


def _is_told(result: Translated, name: str, value: object) -> bool:
    """Say what has become of a name that has no effect; a switch that is off is not worth a word."""
    reason = ""
    if name in DEAD:
        reason = f"{name} has no effect: {DEAD[name]}."
    elif name in ALWAYS:
        reason = f"{name} is not needed: {ALWAYS[name]}."
    elif name in LATER or name in ORIGINAL:
        reason = f"{name} has no effect yet: {LATER.get(name, 'it')} will come later."
    if reason and value not in (None, False):
        result.notes.append(reason)
    return bool(reason)


def status_of(name: str) -> str:
    """Return what has become of a name of the original: kept, alias, dead or later; empty where it had no such."""
    if name in (*_ADDED_UP, "config", "save_optimizer") or (name in fields() and name in ORIGINAL):
        return "kept"
    if name in _ALIASES:
        return "alias"
    if name in DEAD:
        return "dead"
    return "later" if name in LATER or name in ORIGINAL else ""


def reason_of(name: str) -> str:
    """Return what is to be said of a name that is not simply a setting."""
    return {**DEAD, **LATER, **ALWAYS, **_ALIAS_MEANINGS}.get(name, "")


def original_keys() -> list[tuple[str, str, str]]:
    """Return name, status and meaning of every key of the original's optimizer and validation files."""
    rows = []
    for section, prefix in _SECTIONS.items():
        names = FREEZING_KEYS if section == "text_encoder_freezing" else OPTIMIZER_KEYS
        for name in names:
            ours = "unfreeze_last_n_layers" if name == "freeze_front_n_layers" else f"{prefix}{name}"
            rows.append((f"optimizer.json: {section}.{name}", *_key_status(name, ours)))
    for name in ("apply_grad_scaler_step_tweaks", "log_grad_norm", "text_encoder_lr_scale"):
        rows.append((f"optimizer.json: {name}", "dead" if name in DEAD else "kept", reason_of(name)))
    for name, ours in VALIDATION_KEYS.items():
        rows.append((f"validation: {name}", *_key_status(name, ours)))
    rows.append(("validation: validate_training", "alias", "false is `val_split_mode none`"))
    rows.append(("validation: use_relative_loss", "dead", DEAD["use_relative_loss"]))
    return rows


def _key_status(name: str, ours: str) -> tuple[str, str]:
    if ours not in fields():
        return "later", ""
    return ("kept", "") if ours == name else ("alias", f"`{ours}`")


def from_optimizer_file(content: Mapping[str, object]) -> Translated:
    """Return the settings of an `optimizer.json`: base, text_encoder_overrides and text_encoder_freezing."""
    result = Translated()
    for section, values in content.items():
        if section in _SECTIONS and isinstance(values, Mapping):
            prefix = _SECTIONS[section]
            for name, value in values.items():
                _take(result, f"{section}.{name}", f"{prefix}{name}", name, value)
        elif not _is_told(result, section, values) and section not in TEXTS:
            result.notes.append(f"{section} of the optimizer file is not known and not used.")
    return result


def from_validation_file(content: Mapping[str, object]) -> Translated:
    """Return the settings of a `validation_default.json`, whose values left out are those of the original."""
    result = Translated(values={"val_split_mode": "automatic"})
    for name, value in content.items():
        if name in VALIDATION_KEYS and value is not None:
            ours = VALIDATION_KEYS[name]
            result.values[ours] = _as_ours(ours, value)
        elif name in DEAD and value:
            result.notes.append(f"{name} of the validation file has no effect: {DEAD[name]}.")
        elif name not in (*VALIDATION_KEYS, *DEAD, *TEXTS, "validate_training"):
            result.notes.append(f"{name} of the validation file is not known and not used.")
    if content.get("validate_training", True) in (False, "false"):
        result.values["val_split_mode"] = "none"
    return result


def _take(result: Translated, where: str, ours: str, name: str, value: object) -> None:
    """Take over one key of an optimizer file, where it says something and there is such a setting."""
    if value is None or name in TEXTS:
        return
    if name == "freeze_front_n_layers" and isinstance(value, int) and value < 0:  # all but the last so many
        ours, value = "unfreeze_last_n_layers", -value
    if ours in fields():
        result.values[ours] = _as_ours(ours, value)
    elif name in DEAD:
        result.notes.append(f"{where} has no effect: {DEAD[name]}.")
    elif name in OPTIMIZER_KEYS or name in FREEZING_KEYS:
        result.notes.append(f"{where} has no effect yet: it will come later.")
    else:
        result.notes.append(f"{where} is not known and not used.")


def _as_ours(name: str, value: object) -> object:
    """Return a value of the original in the form that our setting takes."""
    if name == "data_root":
        return _roots(value)
    if name == "extra_manual_datasets" and isinstance(value, Mapping):
        return [f"{key}={folder}" for key, folder in value.items()]
    # The original's whole numbers were often written as such where ours may be fractions.
    spec = fields()[name]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if spec.kind is float and is_whole and not spec.many:
        return float(value)  # type: ignore[arg-type]
    return value


def _roots(value: object) -> object:
    """Return the folders and manifests of a data_root in any of the original's forms."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        inner = value.get("resolvers", value.get("path"))
        return value if inner is None or isinstance(inner, Mapping) else _roots(inner)
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        found: list[object] = []
        for item in value:
            roots = _roots(item) if isinstance(item, str | Mapping) else item
            found += roots if isinstance(roots, list) else [roots]
        return found
    return value


def _disable_amp(result: Translated, value: object) -> None:
    result.values["amp"] = not value if isinstance(value, bool) else value


def _gpuid(result: Translated, value: object) -> None:
    result.values["device"] = f"cuda:{value}" if value != 0 else "auto"


def _disable_xformers(result: Translated, value: object) -> None:
    if value:
        result.values["attn_type"] = "sdp"


def _pass(name: str) -> Callable[[Translated, object], None]:
    def keep(result: Translated, value: object) -> None:
        result.values[name] = value

    return keep


def _train_sampler(result: Translated, value: object) -> None:
    if value not in (None, "ddpm"):
        result.notes.append("train_sampler has no effect: ddpm, pndm and ddim add noise in the same way.")


_ADDED_UP = ("scale_lr", "validation_config")
_ALIASES: Mapping[str, Callable[[Translated, Any], None]] = {
    "disable_amp": _disable_amp,
    "gpuid": _gpuid,
    "disable_xformers": _disable_xformers,
    "train_sampler": _train_sampler,
    **{name: _pass(name) for name in ("lowvram", "scale_lr", "optimizer_config", "validation_config")},
}
_ALIAS_MEANINGS: Mapping[str, str] = {
    "disable_amp": "`amp` off",
    "gpuid": "`device cuda:N`",
    "disable_xformers": "`attn_type sdp`",
    "train_sampler": "accepted without effect: all three add noise alike",
    "lowvram": "gradient checkpointing, batch 1, accumulation 1, resolution at most 512, 8-bit Adam",
    "optimizer_config": "its keys are read as settings; what stands in the settings file or on the command line wins",
    "validation_config": "its keys are read as settings; what stands in the settings file or on the command line wins",
    "scale_lr": "the learning rates times (batch_size x grad_accum) ^ 0.55",
    "config": "the settings file",
}
LEGACY_FLAGS = (*_ALIASES, *DEAD, *LATER, "save_optimizer")
"""Flags of the original that are no settings here."""
_SECTIONS = {"base": "", "text_encoder_overrides": "text_encoder_", "text_encoder_freezing": ""}
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
"""Every flag and key of the original's train.json, the older ones too."""
