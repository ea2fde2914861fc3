"""The parts of the Settings tab that are no fields: search, views, headings, and what is said of the form beside it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ed2.errors import Problem
from ed2.models.families.facts import FamilyFacts
from ed2.settings.effect import idle
from ed2.settings.fields import fields, groups, label_of
from ed2.settings.schema import Settings
from ed2.text import listed
from ed2.ui.html import escape, on_page, tab_of

BASIC = (
    "method",
    "project_name",
    "resume_ckpt",
    "resolution",
    "batch_size",
    "max_epochs",
    "lr",
    "lr_scheduler",
    "lora_rank",
    "optimizer",
    "gradient_checkpointing",
    "disable_textenc_training",
    "ckpt_every_n_minutes",
    "save_every_n_epochs",
)
"""The settings of the basic view, in its order."""
METHOD = "method"
"""The setting that is shown before all others, since it decides which of them apply."""
VIEWS = {"basic": "Basic", "all": "All", "changed": "Changed"}
_NAMES = re.compile(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b")


@dataclass(frozen=True)
class FormFacts:
    """What the browser has to know of the form to show the right fields.

    Attributes:
        hidden: settings that do not apply, with the reason.
        changed: settings that differ from the chosen preset, or from the defaults.
        problems: what is wrong, by the setting.
        notes: a sentence beside a setting.
        compared: what `changed` compares with, in words.
        is_check_outdated: whether the images were checked with other settings than these.
    """

    hidden: Mapping[str, str] = field(default_factory=dict)
    changed: Iterable[str] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    compared: str = ""
    is_check_outdated: bool = False

    def as_json(self) -> str:
        """The facts as the browser reads them."""
        hidden = {name: with_labels(why) for name, why in self.hidden.items()}
        return json.dumps(
            {
                "hidden": hidden,
                "changed": list(self.changed),
                "problems": dict(self.problems),
                "notes": dict(self.notes),
                "compared": self.compared,
                "is_check_outdated": self.is_check_outdated,
            }
        )


def not_applicable(settings: Settings, family: FamilyFacts) -> dict[str, str]:
    """The settings that the form need not show, with the reason."""
    found = dict(idle(settings, family))
    if not settings.optimizer.useadam8bit:
        found["useadam8bit"] = "the setting optimizer shows which optimizer is in force"
    return found


def in_force(settings: Settings, family: FamilyFacts, *, on_gpu: bool) -> Mapping[str, str]:
    """A sentence on what holds, by the setting that decides it: the optimizer and learning rate of each network.

    Args:
        settings: of the run.
        family: of the base model.
        on_gpu: whether it trains on a GPU, which decides the default.
    """
    networks = settings.trained_networks(family)
    if not networks:
        return {}
    names = {part.title: settings.optimizer_of(part, on_card=on_gpu) for part in networks}
    rates = {part.title: f"{settings.rate_of(part):g}" for part in networks}
    default = ""
    if settings.optimizer.optimizer is None and not settings.optimizer.useadam8bit:
        default = f", the default on a {'GPU' if on_gpu else 'CPU'}"
    return {"optimizer": f"In use: {_by_network(names)}{default}.", "lr": f"In use: {_by_network(rates)}."}


def _by_network(values: Mapping[str, str]) -> str:
    """The value of each network, or the one that all have: "1e-06 for the UNet and 5e-07 for the text encoder"."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return listed([f"{value} for the {title}" for title, value in values.items()])


def settings_of(group: str) -> list[str]:
    """The settings of a group that have their field in the Settings tab, the basic ones first."""
    names = [name for name, spec in fields().items() if spec.group == group and tab_of(name) == "settings"]
    return sorted((name for name in names if name != METHOD), key=lambda name: name not in BASIC)


def problems_by_setting(problems: Iterable[Problem]) -> dict[str, str]:
    """The problems of settings, each in words."""
    return {p.path: on_page(f"{p.what} {p.fix}".strip()) for p in problems if p.path in fields()}


def with_labels(text: str) -> str:
    """The text with the labels of settings in place of their names."""
    return _NAMES.sub(lambda found: f"“{label_of(found[0])}”" if found[0] in fields() else found[0], text)


FOUND_HTML = '<p id="settings-found" class="ed-note" role="status"></p>'
"""What was found, and what of it has no field below; filled in the browser."""


def catalog_html() -> str:
    """What the browser needs to know of each setting."""
    catalog = []
    for name, spec in fields().items():
        entry = {"name": name, "label": label_of(name), "help": spec.help, "group": spec.group, "tab": tab_of(name)}
        catalog.append(entry)
    return f'<i data-catalog="{escape(json.dumps({"settings": catalog, "basic": BASIC}))}"></i>'


def toolbar_html() -> str:
    """Search and the choice of a view."""
    views = ""
    for name, title in VIEWS.items():
        checked = " checked" if name == "basic" else ""
        views += f'<label><input type="radio" name="settings-view" value="{name}"{checked}><span>{title}</span></label>'
    return (
        '<div class="ed-toolbar" role="search">'
        '<input type="search" id="settings-search" aria-label="Search settings" aria-describedby="settings-found" '
        'placeholder="Search settings: lr, memory, save" autocomplete="off" spellcheck="false">'
        f'<fieldset class="ed-views"><legend>View</legend>{views}</fieldset>'
        '<button type="button" id="fold-all-button" hidden>Unfold all</button></div>'
    )


def heading_html(group: str) -> str:
    """The heading of a group, which folds it, with the names of what is in it."""
    title = (groups()[group].__doc__ or group).strip()
    content = ", ".join(map(label_of, settings_of(group)))
    return (
        f'<h3 class="ed-group-heading"><button type="button" data-fold="{group}" aria-expanded="false" '
        f'aria-controls="settings-{group}"><span>{escape(title)}</span> <small>{escape(content)}</small></button></h3>'
    )
