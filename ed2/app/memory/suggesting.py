"""`train.py --suggest`: which settings to change so that a run fits its card, in words and for JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.app.images.scanning import scan_dataset
from ed2.app.memory.verdict import Planned, planned, verdict_line
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.errors import DatasetError, Problem, SettingsError
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings
from ed2.vram.advice import Advice, Change, Search, suggest


@dataclass(frozen=True)
class Suggested:
    """An advice, and what it is about."""

    planned: Planned
    advice: Advice
    notes: tuple[str, ...] = ()

    def as_object(self) -> dict[str, object]:
        """The answer to `--suggest --json`."""
        advice, card = self.advice, self.planned.card
        return {
            "fits": advice.fits,
            "changes": [
                {
                    "settings": dict(change.after),
                    "before": dict(change.before),
                    "saves_gb": round(change.saves_gb, 2),
                    "why": change.why,
                }
                for change in advice.changes
            ],
            "before": advice.before.as_object(card),
            "after": advice.after.as_object(card),
            "room": advice.room,
            "needed": list(advice.needed),
            "problems": list(self.notes),
        }

    def as_text(self) -> str:
        """The same for people."""
        advice = self.advice
        lines = [f"As it is: {verdict_line(advice.before, self.planned.card)}"]
        lines += advice.needed
        lines += change_lines(advice.changes)
        if advice.fits and not advice.changes:
            lines.append("Nothing has to be changed.")
        if advice.changes:
            lines.append(f"Then: {verdict_line(advice.after, self.planned.card)}")
        return "\n".join([*lines, *([advice.room] if advice.room else []), *self.notes])


def change_lines(changes: tuple[Change, ...], label: Callable[[str], str] = str) -> list[str]:
    """What to change, what it saves, and what it costs; `label` gives a setting's name."""
    lines = []
    for change in changes:
        words = " and ".join(
            f"{label(name)} {_told(change.before[name])} -> {_told(v)}" for name, v in change.after.items()
        )
        verb = "saves" if change.saves_gb >= 0 else "takes"
        lines.append(f"  {words}: {verb} {abs(change.saves_gb):.1f} GB; {change.why}.")
    return lines


def _told(value: object) -> str:
    return "empty" if value is None else ("on" if value else "off") if isinstance(value, bool) else str(value)


def suggested(flags: Mapping[str, object], config: Path | None, *, vram_gb: float | None) -> Suggested:
    """Find what to change for a card of `vram_gb`, or for the one that is here.

    Raises:
        SettingsError: wrong settings, or no card to fit.
    """
    gathered = gather(flags, config)
    settings = with_defaults(gathered.values)
    sizes = model_sizes(settings)
    has_images = "data_root" in gathered.values
    notes = (*gathered.notes, *map(str, sizes.problems))
    return advised(settings, sizes, vram_gb=vram_gb, images=_count(settings) if has_images else None, notes=notes)


def advised(
    settings: Settings,
    sizes: ModelSizes,
    *,
    vram_gb: float | None,
    images: int | None = None,
    notes: tuple[str, ...] = (),
) -> Suggested:
    """The same for settings that were read already.

    Raises:
        SettingsError: there is no card to fit.
    """
    found = planned(settings, sizes, vram_gb)
    if found.card.free_gb is None:
        problem = Problem("--vram_gb", "there is no NVIDIA card here.", "Say for which one: --vram_gb 12.")
        raise SettingsError("There is nothing to fit into:", [problem])
    search = Search(found.shape, found.card, images, found.overhead)
    return Suggested(found, suggest(search, settings), notes)


def _count(settings: Settings) -> int | None:
    """How many images there are, which bounds the batch; None where that cannot be told."""
    try:
        return len(scan_dataset(settings, headers_only=True).examples)
    except DatasetError:
        return None
