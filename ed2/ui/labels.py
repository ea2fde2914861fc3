"""What the page calls the settings."""

import re

from ed2.settings.fields import fields

LABELS = {
    "resume_ckpt": "Base model or checkpoint", "project_name": "Project name", "data_root": "Folder of images",
    "max_epochs": "Epochs", "lr": "Learning rate", "text_encoder_lr": "Learning rate of the text encoder",
    "lr_scheduler": "Learning rate schedule", "useadam8bit": "8-bit Adam", "amp": "Mixed precision (amp)",
    "amp_dtype": "Format of mixed precision", "grad_accum": "Gradient accumulation", "flip_p": "Mirror chance",
    "cond_dropout": "Caption dropout", "disable_unet_training": "Leave the UNet untrained",
    "disable_textenc_training": "Leave the text encoder untrained", "attn_type": "Attention",
    "ckpt_every_n_minutes": "Checkpoint every so many minutes", "save_every_n_epochs": "Save every so many epochs",
    "save_ckpts_from_n_epochs": "No saving by epochs before epoch", "save_ckpt_dir": "Folder of single files",
    "no_save_ckpt": "No single files", "ckpt_format": "Format of single files", "logdir": "Folder of runs",
    "log_step": "Log every so many steps", "sample_steps": "Samples every so many steps",
    "sample_prompts": "File of prompts", "no_prepend_last": "No last- before the final name",
    "save_full_precision": "Single files in full precision", "weights_only": "Take only the weights",
    "clip_grad_norm": "Longest gradient",
}  # fmt: skip
_OPTION = re.compile(r"(?<![^\s(“\"'])--([a-z][a-z0-9_]*)\b(?![-=])")
_ELSEWHERE = {
    "check": "Check in the tab Dataset", "suggest": "Suggest in the tab Settings",
    "test_resume": "Test resume in the tab Resume", "vram_gb": "“Memory of the card”",
    "config": "the settings file",
}  # fmt: skip


def label_of(name: str) -> str:
    """A setting's name for people."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def on_page(text: str) -> str:
    """The text with options of the command line under the names that the page has for them."""
    return _OPTION.sub(lambda found: _ELSEWHERE.get(found[1]) or _in_form(found), text)


def _in_form(found: re.Match[str]) -> str:
    return f"“{label_of(found[1])}”" if found[1] in fields() else found[0]
