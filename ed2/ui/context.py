"""What the parts of the owner's page share."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.checks.check import Checked
from ed2.app.images.captions import CaptionEdits
from ed2.app.page.folders import Roots
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.errors import Problem, SettingsError
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.ui.sharing import Sharing
from ed2.ui.shelf import Shelf

SAMPLE_SIDE = 768
THUMB_SIDE = 320
MAX_PAGES = 100
"""The pages whose forms are remembered; one that was forgotten is kept whole."""


@dataclass(frozen=True)
class Refused:
    """A form that could not start, and why."""

    values: Mapping[str, object]
    problems: tuple[Problem, ...]

    def left(self, values: Mapping[str, object]) -> list[Problem]:
        """The problems whose fields are as they were."""
        changed = {name for name, value in self.values.items() if values.get(name, value) != value}
        return [problem for problem in self.problems if problem.path not in changed]


@dataclass(frozen=True)
class Sent:
    """The form that a page has shown or sent last, and for which time."""

    turn: str
    form: Mapping[str, object]


@dataclass
class Context:
    """One for the program, whatever the number of browsers.

    Attributes:
        begin: settings that the form begins with, over its defaults.
        checked: what the last check of the images found.
    """

    service: TrainerService = field(default_factory=TrainerService)
    user: UserFiles = field(default_factory=UserFiles)
    roots: Roots = field(default_factory=Roots)
    begin: Mapping[str, object] = field(default_factory=dict)
    samples: Shelf = field(default_factory=lambda: Shelf(SAMPLE_SIDE))
    thumbs: Shelf = field(default_factory=lambda: Shelf(THUMB_SIDE))
    checked: Checked | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_preset_given: bool = False
    _refused: Refused | None = None
    _pages: dict[str, Sent] = field(default_factory=dict)
    _keeping: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.sharing = Sharing(self.service, self.samples, self.form_values)
        self.captions = CaptionEdits(self.user.folder / "captions")
        self._form = {**({} if self.is_preset_given else self.user.draft()), **self.begin}

    def form_values(self) -> dict[str, object]:
        """The form as it was left; at the start of the program what the command line says wins over it."""
        return dict(self._form)

    def keep_form(self, values: Mapping[str, object], turn: str = "") -> bool:
        """Remember the form for every page, and for the next start.

        Of a page that was `opened`, only what was changed on it since: others may have changed the rest.

        Args:
            values: the form, with every setting.
            turn: which page sent it, and a number that grows, with a blank between them and of equal length in all of a
                page. Forms of one page may arrive in another order than they were sent: an older one changes nothing.

        Returns:
            Whether it is the newest of its page.

        Raises:
            OSError: it is remembered until the program ends.
        """
        with self._keeping:
            page = turn.partition(" ")[0]
            before = self._pages.get(page)
            if before and turn < before.turn:
                return False
            changed = {n: v for n, v in values.items() if v != before.form.get(n)} if before and page else values
            self._remember(page, Sent(turn, dict(values)))
            if changed:
                self._keep({**self._form, **changed})
            return True

    def opened(self, page: str, values: Mapping[str, object]) -> None:
        """Know with which form a page opens."""
        with self._keeping:
            self._remember(page, Sent("", dict(values)))

    def _remember(self, page: str, sent: Sent) -> None:
        self._pages.pop(page, None)
        self._pages[page] = sent
        while len(self._pages) > MAX_PAGES:
            del self._pages[next(iter(self._pages))]

    def _keep(self, values: Mapping[str, object]) -> None:
        if values.get("logdir") != self._form.get("logdir"):
            self._follow(values)
        self._form = dict(values)
        if self._refused and not self.service.snapshot().is_active:
            self.service.show_problems(self._refused.left(values))
        self.user.keep_draft(values)

    def start(self, values: Mapping[str, object]) -> None:
        """Begin a run with this form.

        Raises:
            RefusedError: a run is going on.
            SettingsError: lists everything that is wrong, which is shown until those fields are changed.
        """
        try:
            self.service.start(self.require_allowed(values))
        except SettingsError as error:
            self._refused = Refused(dict(values), tuple(error.problems))
            self.service.show_problems(error.problems)
            raise
        self._refused = None

    def require_allowed(self, values: Mapping[str, object]) -> dict[str, object]:
        """The values with their paths made absolute, every one of them in an allowed folder. Raises SettingsError."""
        absolute = absolute_paths(values, PROGRAM_DIR)
        self.roots.require(absolute)
        return absolute

    def show_runs(self) -> None:
        """Show the last run of the folder of runs, and follow what is trained there, where the page may look there."""
        with contextlib.suppress(SettingsError):
            self.service.show_last_run(self._runs_of(self._form))
        self._follow(self._form)

    def _follow(self, values: Mapping[str, object]) -> None:
        """Follow what other programs train in the folder of runs that the form names, where the page may look there."""
        with contextlib.suppress(SettingsError):
            self.service.follow(self._runs_of(values))

    def _runs_of(self, values: Mapping[str, object]) -> Path:
        """The folder of runs that a form names. Raises SettingsError where the page may not look there."""
        return self.logdir(self.require_allowed({"logdir": values.get("logdir")}))

    def logdir(self, values: Mapping[str, object]) -> Path:
        """The folder of runs that the form names."""
        return PROGRAM_DIR / str(values.get("logdir") or "logs")
