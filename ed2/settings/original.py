"""Every flag and key of EveryDream 2, and what became of it: kept, alias, dead or later, with the reason."""

from collections.abc import Mapping

from ed2.settings.fields import fields

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


def status_of(name: str) -> str:
    """What became of a name: kept, alias, dead or later; empty if EveryDream 2 had no such name."""
    if name in ("scale_lr", "validation_config", "config", "save_optimizer") or (name in fields() and name in ORIGINAL):
        return "kept"
    if name in ALIASES:
        return "alias"
    if name in DEAD:
        return "dead"
    if name in LATER or name in ORIGINAL:
        return "later"
    return ""


def reason_of(name: str) -> str:
    """The note on a name that is not simply a setting."""
    return {**DEAD, **LATER, **ALWAYS, **ALIASES}.get(name, "")


def original_keys() -> list[tuple[str, str, str]]:
    """Name, status and meaning of every key of its optimizer and validation files."""
    rows = []
    for section, prefix in SECTIONS.items():
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
    if ours == name:
        return "kept", ""
    return "alias", f"`{ours}`"
