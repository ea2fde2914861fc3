"""docs/presets.md, and the table of cards in README.md: the shipped presets with what the memory plan says of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ed2.app.preflight import model_sizes
from ed2.models.families.facts import FACTS
from ed2.settings.files import PROGRAM_DIR, read_preset, with_defaults
from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.plan import plan_memory
from ed2.vram.shapes import shape_of

TABLE = re.compile(r"(<!-- cards -->\n).*?(<!-- end -->)", re.DOTALL)
GOALS = ("face-or-pet", "style", "thousands")
"""How the names of presets for a goal begin."""
INTRODUCTION = """\
# Presets

Made by `scripts/make_docs`. A preset is a file of settings for one goal or card; what you set yourself wins over it.

    ./launch.sh train --config presets/face-or-pet-sd15-8gb.json --data_root IMAGES --resume_ckpt MODEL

On the page, choose one at the top of the Settings tab: it says what it is for and what it would change before you load
it. GB is what the memory plan expects, and in brackets the high end of its range, which a card has to have free
([memory.md](memory.md)); it is planned, not measured. A test runs this for every preset and its card, and holds that it
fits:

    ./launch.sh check --config presets/sd15-12gb.json --vram_gb 12 --data_root IMAGES

No preset has been tried on a GPU here. Where its values come from stands under each.
"""
NO_CARD = """
## Without a GPU

`presets/demo.json` and `presets/demo-lora.json` train the tiny model that ships with the program:
[its page](../ed2/demo/README.md) says how its settings were found. `./launch.sh demo` starts the first.
"""


@dataclass(frozen=True)
class Preset:
    """A shipped preset for a card.

    Attributes:
        path: its file.
        card_gb: memory of the card that it is for.
        about: title, for whom, and where its values come from.
        settings: with its values.
    """

    path: Path
    card_gb: int
    about: dict[str, str]
    settings: Settings

    @property
    def file(self) -> str:
        """Its path in the repository."""
        return f"presets/{self.path.name}"

    @property
    def is_for_goal(self) -> bool:
        """Whether it is for a goal rather than for a card alone."""
        return self.path.name.startswith(GOALS)

    @property
    def trained(self) -> str:
        """What is trained, in a few words: `SD 1.x, LoRA of rank 16`."""
        values, model = self.settings.flat(), FACTS[model_sizes(self.settings).family].title
        if values["method"] == "lora":
            return f"{model}, LoRA of rank {values['lora_rank']}"
        return f"{model}, {'UNet' if values['disable_textenc_training'] else 'UNet and text encoders'}"

    @property
    def means(self) -> str:
        """How it is made to fit."""
        values = self.settings.flat()
        low = [
            ("weights in bf16", values["weights_dtype"] == "bf16"),
            ("updates in the backward pass", values["fused_backward"]),
            ("Adafactor", values["optimizer"] == "adafactor"),
            ("8-bit Adam", values["useadam8bit"] or values["optimizer"] == "adamw8bit"),
            ("gradient checkpointing", values["gradient_checkpointing"]),
        ]
        return ", ".join(name for name, is_used in low if is_used)

    @property
    def planned(self) -> str:
        """What the plan expects, and the high end of its range, in GB."""
        shape = shape_of(model_sizes(self.settings).family)
        plan = plan_memory(self.settings, shape, card=Card.of_size(self.card_gb))
        return f"{plan.expected_gb:.1f} ({plan.high_gb:.1f})"


def presets_for_cards() -> list[Preset]:
    """The shipped presets that name a card, smallest card first."""
    found = []
    for path in sorted((PROGRAM_DIR / "presets").glob("*gb.json")):
        read = read_preset(path)
        size = re.findall(r"(\d+) GB", read.about["title"])[0]
        found.append(Preset(path, int(size), dict(read.about), with_defaults(read.values)))
    return sorted(found, key=lambda preset: (preset.card_gb, preset.path.name))


def presets_page() -> str:
    """The page on presets."""
    presets = presets_for_cards()
    sections = [INTRODUCTION, "## By goal\n"]
    sections += [_section(preset) for preset in presets if preset.is_for_goal]
    sections += ["## By card\n", *(_section(preset) for preset in presets if not preset.is_for_goal)]
    return "\n".join(sections) + NO_CARD


def _section(preset: Preset) -> str:
    data = preset.settings.data
    facts = f"{preset.trained}; {data.resolution} at batch {data.batch_size}; {preset.means}"
    return (
        f"### {preset.about['title']}\n\n{preset.about['for']}\n\n"
        f"- File: `{preset.file}`\n- Trains: {facts}\n- Memory: {preset.planned} GB\n"
        f"- Source: {preset.about['source']}\n"
    )


def with_card_table(readme: str) -> str:
    """README.md with its table of cards renewed."""
    lines = ["| card | trains | at, batch | by | GB | preset |", "|---:|---|---|---|---:|---|"]
    for preset in presets_for_cards():
        if not preset.is_for_goal:
            data, name = preset.settings.data, preset.path.stem
            size = f"{data.resolution}, {data.batch_size}"
            cells = [f"{preset.card_gb} GB", preset.trained, size, preset.means, preset.planned, f"`{name}`"]
            lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    return TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", readme)
