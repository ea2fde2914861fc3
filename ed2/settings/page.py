"""The settings as a page of the documentation."""

import json

from ed2.settings.fields import FieldSpec, fields, groups
from ed2.settings.legacy import LEGACY_FLAGS
from ed2.settings.original import ORIGINAL, original_keys, reason_of, status_of

HEAD = """\
# Settings

Made from `ed2/settings/schema.py` by `python scripts/make_docs`; do not edit by hand.

Each setting is a flag (`--max_epochs 100`) and a key of a settings file (`{"max_epochs": 100}`), under the name that
EveryDream 2 gave it. Flags win over the file given with `--config`. A switch is turned off by `--no-amp` or by
`--amp=false`. Relative paths count from where you stand on the command line, and from the program's folder in a file.

The last column says what the setting was in EveryDream 2: *kept* under its name, or *new*. Its other names stand at the
end of this page.
"""
TABLE_HEAD = ("| setting | takes | default | what it does | |", "|---|---|---|---|---|")
LEGACY_HEAD = """\
## Names of EveryDream 2 that are no settings here

*alias*: read as another setting. *dead*: has no effect, which is said when it is used. *later*: not built yet, which is
said as well. *kept*: works as it did.

| name | status | meaning |
|---|---|---|"""


def settings_page() -> str:
    """Every setting with its type, default and help, as Markdown, group by group."""
    parts = [HEAD]
    for name, model in groups().items():
        rows = [_row(spec) for spec in fields().values() if spec.group == name]
        title = (model.__doc__ or name).strip()
        parts.append(
            "\n".join(
                [f"## {title}", "", "| setting | takes | default | what it does | |", "|---|---|---|---|---|", *rows]
            )
        )
    names = sorted(name for name in {*ORIGINAL, *LEGACY_FLAGS} if name not in fields())
    rows = [f"| `{name}` | {status_of(name)} | {reason_of(name)} |" for name in names]
    rows += [f"| `{name}` | {status} | {meaning} |" for name, status, meaning in original_keys()]
    parts.append("\n".join([LEGACY_HEAD, *rows]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(spec: FieldSpec) -> str:
    kind = spec.type_name + (" or nothing" if spec.optional else "")
    status = "kept" if spec.name in ORIGINAL else "new"
    default = json.dumps(spec.default) if spec.default not in (None, "") else "*empty*"
    return f"| `{spec.name}` | {kind} | {default} | {spec.help.replace('|', chr(92) + '|')} | {status} |"
