"""The settings as a page of the documentation."""

import json

from ed2.settings.fields import FieldSpec, fields, groups
from ed2.settings.legacy import (
    ALIASES,
    ALWAYS,
    DEAD,
    FREEZING_KEYS,
    LATER,
    LEGACY_FLAGS,
    OPTIMIZER_KEYS,
    ORIGINAL,
    SECTIONS,
    VALIDATION_KEYS,
)

HEAD = """\
# Settings

Generated from `ed2/settings/schema.py` by `python scripts/make_docs`; do not edit by hand.

Each setting is a flag (`--max_epochs 100`) and a key of a settings file (`{"max_epochs": 100}`), under the name that
EveryDream 2 gave it. Flags override the file given with `--config`. Turn a switch off with `--no-amp` or `--amp=false`.
Relative paths count from the current folder on the command line, and from the program folder in a file.

`on_end`, which runs a command or calls a web address when a run ends, is not a setting: a file that names it is refused
([page.md](page.md#when-a-run-ends)).

The last column says whether EveryDream 2 has the setting: *kept* under its name, or *new*. Its other names are at the
end of this page.
"""
TABLE_HEAD = "| setting | values | default | what it does | |\n|---|---|---|---|---|"
LEGACY_HEAD = """\
## Names of EveryDream 2 that are not settings here

*alias*: read as another setting. *dead*: has no effect, which is reported when it is used. *later*: not supported yet,
which is reported too. *kept*: works as before.

| name | status | meaning |
|---|---|---|"""


def settings_page() -> str:
    """Every setting with its type, default and help, as Markdown, group by group."""
    parts = [HEAD]
    for name, model in groups().items():
        rows = [_row(spec) for spec in fields().values() if spec.group == name]
        title = (model.__doc__ or name).strip()
        parts.append("\n".join([f"## {title}\n", TABLE_HEAD, *rows]))
    rows = [LEGACY_HEAD]
    for name in sorted({*ORIGINAL, *LEGACY_FLAGS} - set(fields())):
        rows.append(f"| `{name}` | {status_of(name)} | {reason_of(name)} |")
    rows += [f"| `{name}` | {status} | {meaning} |" for name, status, meaning in original_keys()]
    parts.append("\n".join(rows))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(spec: FieldSpec) -> str:
    values = spec.type_name + (", or empty" if spec.optional else "")
    status = "kept" if spec.name in ORIGINAL else "new"
    default = json.dumps(spec.default) if spec.default not in (None, "") else "*empty*"
    return f"| `{spec.name}` | {values} | {default} | {spec.help.replace('|', chr(92) + '|')} | {status} |"


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
