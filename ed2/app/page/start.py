"""What the first screen says: the four steps to a run of one's own, what is missing, and the run in one sentence.

Also the demo's settings: a run of one's own does not begin with them unless the user says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ed2.app.checks.check import CHECK_FIRST, CheckResult, Forecast, forecast
from ed2.app.checks.memory import MemoryReport, report_memory
from ed2.app.checks.start_checks import is_root
from ed2.app.page.folders import Roots
from ed2.app.preflight import model_sizes
from ed2.app.run_settings import FIND_LAST
from ed2.app.suggest.rules import SuggestedValues, suggest_values
from ed2.app.suggest.situation import situation_of
from ed2.app.user_files import SHIPPED, UserFiles, preset_values
from ed2.errors import ProblemsError, printable
from ed2.models.families.facts import FACTS
from ed2.models.files.base_model import PUBLIC_NAME, locate
from ed2.models.files.found import describe, public_name
from ed2.settings.files import PROGRAM_DIR, absolute_paths, with_defaults
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.text import counted, file_size, plural, rough_duration
from ed2.vram.card import Card, card_for, count_cards

BASE = "resume_ckpt"
DEFAULT_FOLDERS = [str(PROGRAM_DIR / folder) for folder in Settings().data.data_root]
UNKNOWN_TIME = "time known after the first steps"
NO_GPU = "No NVIDIA GPU was found here, and a real model takes days without one. Plan for one in the Settings tab."
INVALID = "Some values in the form are not valid; press Train to see which."
DEMO = SHIPPED / "demo.json"
MARK = "demo.json"
OPEN, WANTED = "open", "demo"
OF_A_RUN = ("data_root", "resume_ckpt", "project_name", "sample_prompts")
"""What a preset names that belongs to its run alone, and would not suit another one."""


@dataclass(frozen=True)
class MissingChoice:
    """Something that a run cannot start without, why it is missing, and where it is chosen: tab and setting."""

    name: str
    what: str
    tab: str
    setting: str
    is_chosen: bool = False


@dataclass(frozen=True)
class StartStep:
    """One of the steps to a run.

    Attributes:
        title: its name.
        known: what is known of it, as a sentence.
        tab: where it is done.
        setting: the field to go to there.
        is_done: whether it needs nothing more.
        action: what its tab is opened for, as an imperative.
        offer: what could be set besides, as an imperative; empty for nothing.
        offered: the setting that this is.
    """

    title: str
    known: str
    tab: str
    setting: str
    is_done: bool
    action: str
    offer: str = ""
    offered: str = ""


@dataclass(frozen=True)
class StartState:
    """What the first screen shows.

    Attributes:
        steps: in order.
        missing: what keeps a run from starting.
        suggestions: values for it; None while the form is not valid.
        changes: those that differ from the form, by name.
    """

    steps: tuple[StartStep, ...]
    missing: tuple[MissingChoice, ...]
    suggestions: SuggestedValues | None = None
    changes: Mapping[str, object] | None = None


def missing_things(values: Mapping[str, object], roots: Roots) -> tuple[MissingChoice, ...]:
    """What has to be chosen before a run with these flat, absolute values can start.

    What the page may not open counts as chosen: a start says why it cannot be used.
    """
    found = [
        _missing_images(values.get("data_root"), roots),
        _missing_base(str(values.get("resume_ckpt") or ""), roots),
    ]
    return tuple(choice for choice in found if choice is not None)


def _missing_images(folders: object, roots: Roots) -> MissingChoice | None:
    texts = [str(folder) for folder in folders] if isinstance(folders, list | tuple) else []
    absent = [text for text in texts if roots.allow(Path(text)) and not is_root(text)]
    what = "Choose the folder with your images."
    if texts and not absent:
        return None
    is_chosen = bool(absent) and absent != DEFAULT_FOLDERS
    if is_chosen:
        what = f"There is no folder {printable(absent[0])}."
    return MissingChoice("images", what, "Dataset", "data_root", is_chosen)


def _missing_base(base: str, roots: Roots) -> MissingChoice | None:
    what = "Choose one that is on this computer, download one, or give its path."
    if base:
        if base == FIND_LAST or not roots.allow(Path(base)) or locate(base) is not None:
            return None
        fix = " Download it in the Settings tab." if PUBLIC_NAME.fullmatch(base) else ""
        what = f"{printable(base)} is not on this computer.{fix}"
    return MissingChoice("a base model", what, "Settings", BASE, bool(base))


def start_state(
    values: Mapping[str, object],
    missing: tuple[MissingChoice, ...],
    checked: CheckResult | None,
    planned_gb: float | None,
    roots: Roots = Roots(),  # noqa: B008 -- frozen
) -> StartState:
    """What the first screen shows for a form of flat, absolute values, and what `missing_things` found in them.

    It is planned for a GPU of `planned_gb`, or the one in this computer.
    """
    gpu = _gpu_step(card_for(str(values.get("device", "auto")), planned_gb), values)
    absent = {thing.setting: thing for thing in missing}
    try:
        roots.require(values)
        settings = with_defaults(values)
    except ProblemsError:
        return StartState(_steps(absent, "Chosen.", "Chosen.", gpu, INVALID, is_ready=False), missing)
    sizes = model_sizes(settings)
    found = forecast(settings, checked, planned_gb)
    num_images = None if checked is None or found.steps is None else len(checked.dataset.examples)
    suggestions = suggest_values(situation_of(settings, sizes, vram_gb=planned_gb, num_images=num_images))
    known = f"{counted(len(missing), 'thing')} missing."
    if not missing:
        memory = report_memory(settings, sizes, planned_gb)
        known = _sentence(found, num_images, FACTS[sizes.family].title, memory)
    steps = _steps(
        absent,
        _images(settings, checked if num_images else None),
        _base(settings),
        gpu,
        known,
        is_ready=not missing,
    )
    return StartState(steps, missing, suggestions, suggestions.changes(settings))


def _steps(
    absent: Mapping[str, MissingChoice], images: str, base: str, gpu: StartStep, go: str, *, is_ready: bool
) -> tuple[StartStep, ...]:
    texts = {"data_root": images, BASE: base}
    texts |= {name: choice.what for name, choice in absent.items()}
    return (
        StartStep("Images", texts["data_root"], "Dataset", "data_root", "data_root" not in absent, "Choose images"),
        StartStep("Base model", texts[BASE], "Settings", BASE, BASE not in absent, "Choose a base model"),
        gpu,
        StartStep("Go", go, "Settings", "max_epochs", is_ready, "Review settings"),
    )


def _gpu_step(card: Card, values: Mapping[str, object]) -> StartStep:
    """Which GPU the run is planned for, and whether more of them could train it."""
    known, offer, num_cards = NO_GPU, "", 1
    if card.total_gb is not None and "card with" in card.name:
        known = f"Planned for {card.name}."
    elif card.total_gb is not None:
        num_cards = count_cards() if values.get("device", "auto") == "auto" else 1
        more = f", and {counted(num_cards - 1, 'other GPU')}" if num_cards > 1 else ""
        known = f"{card.name}, {card.total_gb:.0f} GB{more}."
    if num_cards > 1 and values.get("num_processes", 1) == 1:
        offer = f"Train on {num_cards} GPUs"
    is_there = card.total_gb is not None
    offered = "num_processes" if offer else ""
    return StartStep("GPU", known, "Settings", "card-choice", is_there, "Plan for a GPU", offer, offered)


def _images(settings: Settings, checked: CheckResult | None) -> str:
    """How many images there are, and how many of them lack a caption."""
    if checked is None:
        names = ", ".join(Path(root).name for root in settings.data.data_root)
        return f"{printable(names)}. Press Check in the Dataset tab to count the images."
    found = checked.dataset
    parts = [counted(len(found.examples), "image")]
    kinds = [note.kind for note in found.notes]
    if number := kinds.count("no caption"):
        parts.append(f"{number:,} {plural(number, 'has', 'have')} no caption")
    if number := kinds.count("file name"):
        verb = plural(number, "takes its caption from its name", "take their captions from their names")
        parts.append(f"{number:,} {verb}")
    if found.problems:
        parts.append(f"{counted(len(found.problems), 'file')} cannot be used")
    return f"{', '.join(parts)}."


def _base(settings: Settings) -> str:
    """The name of the base model, and what it is."""
    name = settings.model.resume_ckpt
    place = locate(name) if name and name != FIND_LAST else None
    if place is None:
        return f"{name}."
    found = describe(place.path)
    shown = public_name(place.path) or place.path.name
    if found is None:
        return f"{shown}."
    return f"{shown}: {found.about}, {file_size(found.num_bytes)}."


def _sentence(found: Forecast, num_images: int | None, family: str, memory: MemoryReport) -> str:
    """The run in one sentence: images, model, GPU, steps, memory and time."""
    if num_images is None or found.steps is None:
        return CHECK_FIRST
    time = UNKNOWN_TIME
    if found.seconds:
        time = f"about {rough_duration(found.seconds)} without samples, at the speed measured on this computer"
    what = f"{counted(num_images, 'image')}, {family}, {_gpu(memory)}"
    return f"{what}: {counted(found.steps, 'step')}, {_gigabytes(memory)}, {time}."


def _gpu(memory: MemoryReport) -> str:
    total = memory.card.total_gb
    if total is None:
        return "no GPU"
    return f"{total:.0f} GB"


def _gigabytes(memory: MemoryReport) -> str:
    free, expected = memory.card.free_gb, memory.plan.expected_gb
    if free is None:
        return f"{expected:.1f} GB of memory"
    verdict = memory.plan.verdict(memory.card)
    end = "" if verdict == "fits" else f" ({verdict})"
    return f"{expected:.1f} of {free:.1f} GB{end}"


@dataclass(frozen=True)
class DemoSettings:
    """What the demo is trained with, by its preset, and whether another run may begin with it."""

    preset: Path
    user: UserFiles

    @cached_property
    def named(self) -> Mapping[str, object]:
        """The settings of its preset, absolute. Raises SettingsError."""
        return preset_values(self.preset)

    @property
    def tuned(self) -> dict[str, object]:
        """Its settings that another run could begin with."""
        return {name: value for name, value in self.named.items() if name not in OF_A_RUN}

    def leaked_into(self, values: Mapping[str, object]) -> bool:
        """Whether a form has other images or another base than the demo, and still all its settings, unasked."""
        if self._answer() == WANTED:
            return False
        given = absolute_paths(values, PROGRAM_DIR)
        return self._is_other(given) and all(given.get(name) == value for name, value in self.tuned.items())

    def asks_about(self, values: Mapping[str, object]) -> bool:
        """Whether to ask if a form with other images or another base should have the demo's settings."""
        return self._answer() == OPEN and self._is_other(absolute_paths(values, PROGRAM_DIR))

    def trained(self) -> None:
        """The demo was trained: ask at the next images or base. Raises OSError."""
        if not (self.user.folder / MARK).exists():
            self._keep(OPEN)

    def answered(self, *, is_wanted: bool) -> None:
        """Ask no more. Raises OSError."""
        self._keep(WANTED if is_wanted else "fresh")

    def _is_other(self, given: Mapping[str, object]) -> bool:
        for name in ("data_root", "resume_ckpt"):
            value = given.get(name)
            if isinstance(value, tuple):
                value = list(value)
            if value and value not in (DEFAULT_FOLDERS, self.named.get(name)):
                return True
        return False

    def _answer(self) -> object:
        """The answer that is kept; `OPEN` before there is one, None where nothing was asked."""
        try:
            return read_object(self.user.folder / MARK).get("answer")
        except (OSError, ValueError):
            return None

    def _keep(self, answer: str) -> None:
        self.user.write(MARK, json.dumps({"answer": answer}))
