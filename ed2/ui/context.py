"""State shared by the parts of the owner's page."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.checks.check import CheckResult
from ed2.app.images.edits import Edits
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.folders import Roots, open_folder
from ed2.app.page.prompt_table import PromptTable
from ed2.app.page.start import DEMO, DemoSettings, MissingChoice, missing_things
from ed2.app.queue.store import RunQueue
from ed2.app.reporters.image_losses import ImageLosses, losses_of_images
from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.run_settings import data_roots
from ed2.app.runs.facts import image_of
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.errors import Ed2Error, Problem, SettingsError
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.settings.schema import Settings
from ed2.ui.form import with_one_optimizer
from ed2.ui.image_copies import ImageCopies
from ed2.ui.matrix import Trained
from ed2.ui.page_state import Pages, PageState
from ed2.ui.sharing import Sharing

SAMPLE_SIDE = 768
THUMB_SIDE = 320


@dataclass(frozen=True)
class RefusedForm:
    """A form that could not start a run, and why."""

    values: Mapping[str, object]
    problems: tuple[Problem, ...]

    def remaining(self, values: Mapping[str, object]) -> list[Problem]:
        """The problems whose fields have not changed since."""
        changed = {name for name, value in self.values.items() if values.get(name, value) != value}
        return [problem for problem in self.problems if problem.path not in changed]


@dataclass
class Context:
    """One for the program, however many browsers are open.

    Attributes:
        begin: settings that the form starts with, over its defaults.
        queue: the runs that wait for the trainer.
        pages: what the program remembers of each open page.
        desk: the images of the last check, and changes of their captions.
        demo: the preset of the demo.
        prompt_drafts: prompts that were edited and not saved, by the file that they were read from.
        form_revision: increases with every change of the form.
    """

    service: TrainerService = field(default_factory=TrainerService)
    user: UserFiles = field(default_factory=UserFiles)
    roots: Roots = field(default_factory=Roots)
    begin: Mapping[str, object] = field(default_factory=dict)
    samples: ImageCopies = field(default_factory=lambda: ImageCopies(SAMPLE_SIDE))
    thumbs: ImageCopies = field(default_factory=lambda: ImageCopies(THUMB_SIDE))
    run_images: ImageCopies = field(default_factory=lambda: ImageCopies(SAMPLE_SIDE))
    pages: Pages = field(default_factory=Pages)
    is_preset_given: bool = False
    demo: Path = DEMO
    form_revision: int = 0
    prompt_drafts: dict[str, PromptTable] = field(default_factory=dict)
    _refused: RefusedForm | None = None
    _keeping: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.queue = RunQueue(self.user.folder / "queue")
        self.sharing = Sharing(self.service, self.samples, self.form_values, self.queue)
        self.desk = DatasetDesk(Edits(self.user.folder / "captions", self.roots.allow), self.roots.allow)
        self.demo_settings = DemoSettings(self.demo, self.user)
        draft = {} if self.is_preset_given else self.user.draft()
        self._form = with_one_optimizer({**draft, **self.begin})

    @property
    def images(self) -> list[ImageCopies]:
        """All copies of images that the owner's page shows."""
        return [self.samples, self.thumbs, self.run_images]

    @property
    def checked(self) -> CheckResult | None:
        """What the last check of the images found."""
        return self.desk.checked

    def form_values(self) -> dict[str, object]:
        """The last form; when the program starts, the command line overrides it."""
        return dict(self._form)

    def keep_form(self, values: Mapping[str, object], page: PageState | None = None, turn: int = 0) -> bool:
        """Remember the form for every page, and for the next start.

        Of an open page only what was changed on it counts: another page may have changed the rest.

        Args:
            values: the form, with every setting.
            page: the page that sent it, if one did.
            turn: number of the form on that page. Forms may arrive in another order than they were sent: an older one
                changes nothing.

        Returns:
            Whether it is the newest of its page.

        Raises:
            OSError: it could not be written, and is remembered until the program ends.
        """
        with self._keeping:
            page = page or PageState()
            if turn < page.turn:
                return False
            before = page.form or {}
            changed = {name: value for name, value in values.items() if not before or value != before.get(name)}
            page.form, page.turn = dict(values), turn
            if changed:
                self._keep({**self._form, **changed})
            return True

    def _keep(self, values: Mapping[str, object]) -> None:
        if values.get("logdir") != self._form.get("logdir"):
            self._follow(values)
        self._form = dict(values)
        self.form_revision += 1
        if self._refused and not self.service.snapshot().is_active:
            self.service.show_problems(self._refused.remaining(values))
        self.user.keep_draft(values)

    def start(self, values: Mapping[str, object]) -> None:
        """Start a run with this form.

        Raises:
            RefusedError: a run is in progress.
            SettingsError: lists everything that is wrong, which is shown until those fields are changed.
        """
        try:
            self.service.start(self.require_allowed(values))
        except SettingsError as error:
            self._refused = RefusedForm(dict(values), tuple(error.problems))
            self.service.show_problems(error.problems)
            raise
        self._refused = None

    def start_demo(self, values: Mapping[str, object]) -> None:
        """Train the demo with these values, and remember that it was trained.

        Raises:
            RefusedError: a run is in progress.
            SettingsError: lists everything that is wrong.
        """
        self.service.start(self.require_allowed(values))
        with contextlib.suppress(OSError):  # then nobody is asked about its settings, and they are used for nothing
            self.demo_settings.trained()

    def missing(self) -> tuple[MissingChoice, ...]:
        """What has to be chosen before the form can start a run."""
        return missing_things(
            absolute_paths({"data_root": Settings().data.data_root, **self._form}, PROGRAM_DIR), self.roots
        )

    @property
    def is_first_time(self) -> bool:
        """Whether to open the page with the first screen: nothing was given, and at most the demo was trained."""
        if self.is_preset_given or not self.begin.keys() <= {"logdir"}:
            return False
        are_of_demo = self._are_of_demo()
        return are_of_demo is not None and all(are_of_demo)

    @property
    def has_tried_demo(self) -> bool:
        """Whether the demo is among the runs."""
        return any(self._are_of_demo() or ())

    def _are_of_demo(self) -> list[bool] | None:
        """Of each run whether it is one of the demo; None where the page may not open the runs folder."""
        try:
            runs = self.logdir(self._form)
        except SettingsError:
            return None
        of_demo = f"{self.demo_settings.named.get('project_name')}_"
        return [file.parent.name.startswith(of_demo) for file in runs.glob(f"*/{EVENTS_NAME}")]

    def require_allowed(self, values: Mapping[str, object]) -> dict[str, object]:
        """The values with absolute paths. Raises SettingsError where one of these is not in an allowed folder."""
        absolute = absolute_paths(values, PROGRAM_DIR)
        self.roots.require(absolute)
        return absolute

    def logdir(self, form: Mapping[str, object]) -> Path:
        """The runs folder that a form names. Raises SettingsError where the page may not open it."""
        allowed = self.require_allowed({"logdir": form.get("logdir")})
        return PROGRAM_DIR / str(allowed["logdir"] or "logs")

    def open_folder(self, folder: Path) -> None:
        """Show a folder in the file manager of this computer. Raises Ed2Error where that cannot be."""
        if self.roots.folders is not None:
            raise Ed2Error("The folder cannot be opened", "the page is used from elsewhere.", f"It is {folder}.")
        open_folder(folder)

    def is_check_outdated(self, settings: Settings) -> bool:
        """Whether the last check was of another folder, or with other image settings."""
        return self.checked is not None and self.checked.settings.data != settings.data

    def image_losses(self) -> ImageLosses | None:
        """What the newest run on the checked images measured of each; None if none did that may be opened."""
        if self.checked is None:
            return None
        with contextlib.suppress(SettingsError):
            return losses_of_images(self.logdir(self._form), self.checked.dataset.roots)
        return None

    def trained_in(self, run_dir: Path) -> Trained:
        """What finds the training images of the run in a folder, as far as they may be opened."""
        roots = data_roots(run_dir)

        def find(key: str) -> tuple[str, str] | None:
            path = image_of(roots, key)
            if path is None or not self.roots.allow(path):
                return None
            address = self.thumbs.offer(path, SAMPLE_SIDE)  # never among the samples, which the monitor page shows too
            return (address, path.name) if address else None

        return find

    def show_runs(self) -> None:
        """Show the last run in the runs folder, and follow the runs of other programs there, if it may be opened."""
        with contextlib.suppress(SettingsError):
            self.service.show_last_run(self.logdir(self._form))
        self._follow(self._form)

    def _follow(self, form: Mapping[str, object]) -> None:
        with contextlib.suppress(SettingsError):
            self.service.follow(self.logdir(form))
