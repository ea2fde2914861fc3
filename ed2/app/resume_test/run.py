"""The resume test: some steps in one go against half of them, a kill and the other half, compared byte for byte.

Each part is a process of its own on the user's images and settings, in a folder below `logdir` that is removed at the
end. The kill is a real one (`SIGKILL`; on Windows the process is terminated), after a step that was not saved.
"""

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ed2.app.background import BackgroundTask, TaskStatus
from ed2.app.checks.space import disk_forecast
from ed2.app.checks.start_checks import start_problems
from ed2.app.images.scanning import scan_dataset, split_off_validation
from ed2.app.preflight import model_sizes, require_parts, require_writable
from ed2.app.ranks.messages import decoded, error_of, event_of
from ed2.app.resume_test.comparison import ResumeTestResult, differences
from ed2.app.run_settings import settings_for_check
from ed2.app.runs.removing import resume_test_folder, sweep_resume_tests
from ed2.checkpoint.identity import CKPTS
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError, StopRequested
from ed2.events import Event, PhaseChanged, RunStarted, SavingChanged, StepDone, Warned
from ed2.settings.cli import TEST_STEPS
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import file_size

CHECKPOINTS_WRITTEN = 3
POLL_SECONDS = 0.1


@dataclass
class ResumeTest:
    """One test, made by `run_resume_test`.

    Attributes:
        tell: called with a sentence whenever there is news.
        should_stop: polled at each event of a part, and while waiting.
    """

    settings: Settings
    folder: Path
    steps: int
    tell: Callable[[str], None]
    should_stop: Callable[[], bool]
    _parts: Iterator[int] = field(default_factory=lambda: iter(range(1, 9)))

    def run(self) -> ResumeTestResult:
        """Run the three parts and compare. Raises Ed2Error, StopRequested."""
        began = time.monotonic()
        self._read_images()
        straight, steps = self._to_the_end("1 of 3: in one go", self._values("straight"), self.steps)
        if steps < 2:
            raise SettingsError(
                "This run is too short to test:",
                [Problem("max_epochs", "the run has only one step.", "Raise it, or add images.")],
            )
        half = steps // 2
        killed = self._killed("2 of 3: the first half, then a kill", self._values("killed"), half, steps)
        values = {"resume_ckpt": str(killed), "weights_only": False, "logdir": str(killed.parent)}
        ended, _ = self._to_the_end("3 of 3: the other half", values, steps)
        self.tell("Comparing.")
        return ResumeTestResult(steps, half, tuple(differences(straight, ended)), time.monotonic() - began)

    def _read_images(self) -> None:
        """Read all images in full, so that no part knows more of them than another. Raises Ed2Error, StopRequested."""
        self.tell("Reading every image in full.")
        dataset = scan_dataset(self.settings, should_stop=self.should_stop)
        split_off_validation(self.settings, dataset, should_stop=self.should_stop)

    def _values(self, name: str) -> dict[str, object]:
        """The user's settings for a part: in a folder of the test, with saving controlled by the test."""
        changes: dict[str, object] = {"logdir": str(self.folder / name), "weights_only": True, "no_save_ckpt": True}
        saving = {"ckpt_every_n_minutes": 0.0, "save_every_n_epochs": None}
        return {**self.settings.flat(), **changes, **saving, "log_step": 1}

    def _to_the_end(self, name: str, values: Mapping[str, object], until: int) -> tuple[Path, int]:
        """Run a part and return its run's folder and last step."""
        run_dir, step = Path(), 0
        with self._part(name, values, until=until) as events:
            for event in events:
                if isinstance(event, RunStarted):
                    run_dir = event.run_dir
                elif isinstance(event, StepDone):
                    step = event.step
        return run_dir, step

    def _killed(self, name: str, values: Mapping[str, object], half: int, until: int) -> Path:
        """Run a part until a step after the saved one, kill it, and return its run's folder."""
        run_dir, warning, is_saved, is_beyond = Path(), "", False, False
        with self._part(name, values, until=until, save_at=half) as events:
            for event in events:
                match event:
                    case RunStarted():
                        run_dir = event.run_dir
                    case Warned():
                        warning = event.text
                    case SavingChanged(step=step, is_saving=False):
                        is_saved = is_saved or step == half
                    case StepDone(step=step):
                        is_beyond = is_beyond or step > half
                if is_saved and is_beyond:  # the background save has finished too
                    break
        if not any((run_dir / CKPTS).glob(f"[!.]*-gs{half:05d}")):
            raise Ed2Error("The resume test cannot continue", warning or f"no checkpoint of step {half} was written")
        return run_dir

    @contextmanager
    def _part(self, name: str, values: Mapping[str, object], **limits: int) -> Iterator[Iterator[Event]]:
        """Start a part and give its events; at the end of the block it is killed if it still runs."""
        file = self.folder / f"part{next(self._parts)}.json"
        file.write_text(json.dumps({"values": dict(values), **limits}), encoding="utf-8")
        command = [sys.executable, "-m", "ed2.app.resume_test.part", str(file)]
        self.tell(f"Part {name}: loading libraries.")
        with file.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=PROGRAM_DIR,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends the part
            )
            done = threading.Event()
            threading.Thread(target=self._kill_on_stop, args=(process, done), name="resume test").start()
            try:
                yield self._events(name, process, limits["until"])
            finally:
                done.set()
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        pipe.close()

    def _kill_on_stop(self, process: "subprocess.Popen[bytes]", done: threading.Event) -> None:
        while not done.wait(POLL_SECONDS):
            if self.should_stop():
                process.kill()
                return

    def _events(self, name: str, process: "subprocess.Popen[bytes]", until: int) -> Iterator[Event]:
        assert process.stdout
        for line in process.stdout:
            try:
                message = decoded(line)
            except ValueError:  # printed by a library
                continue
            if "error" in message:
                raise error_of(message)
            event = event_of(message)
            if isinstance(event, StepDone):
                self.tell(f"Part {name}, step {event.step} of {until}.")
            elif isinstance(event, PhaseChanged) and event.phase == "preparing":
                self.tell(f"Part {name}: {event.detail}.")
            yield event
        if self.should_stop():
            raise StopRequested
        if process.wait():
            last = (self.folder / f"{Path(str(process.args[-1])).stem}.log").read_text("utf-8", "replace")[-500:]  # type: ignore[index]
            raise Ed2Error(f"Part {name} of the resume test ended with code {process.returncode}", last.strip())


def run_resume_test(
    flags: Mapping[str, object],
    config: Path | None,
    *,
    steps: int = TEST_STEPS,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> ResumeTestResult:
    """Test whether a run with these settings resumes exactly after a kill.

    Raises:
        SettingsError: wrong settings, or no room on the disk.
        Ed2Error: the test itself failed, which says nothing about the user's run.
        StopRequested: `should_stop` returned true.
    """
    settings = settings_for_check(flags, config).settings
    if settings.run.seed < 0:
        settings = settings.replaced(seed=secrets.randbelow(2**31))
    if problems := [*start_problems(settings.flat()), *_processes_problems(settings)]:
        raise SettingsError("The test cannot start:", problems)
    require_parts(settings)
    require_writable(settings)
    _require_space(settings)
    logdir = Path(settings.logging.logdir)
    sweep_resume_tests(logdir)
    with _writing(logdir), resume_test_folder(logdir) as folder:
        return ResumeTest(settings, folder, steps, tell, should_stop).run()


def _processes_problems(settings: Settings) -> list[Problem]:
    """The parts of the test are runs of one process."""
    size = settings.run.num_processes
    if size == 1:
        return []
    return [Problem("num_processes", f"it is {size}, but the resume test trains in one process.", "Set it to 1.")]


@contextmanager
def _writing(logdir: Path) -> Iterator[None]:
    """Raise Ed2Error where the test's own files cannot be written."""
    try:
        yield
    except OSError as error:
        fix = "Free some space, or choose another folder with --logdir."
        raise Ed2Error(f"The resume test cannot write to {logdir}", f"{plain_reason(error)}.", fix) from error


def _require_space(settings: Settings) -> None:
    disk = disk_forecast(settings.replaced(no_save_ckpt=True), model_sizes(settings))
    needed = CHECKPOINTS_WRITTEN * disk["checkpoint_bytes"]
    if needed > disk["free_bytes"]:
        what = f"the test temporarily needs {file_size(needed)}, but only {file_size(disk['free_bytes'])} is free."
        raise SettingsError(
            "Not enough disk space for the test:", [Problem("logdir", what, "Free some space, or choose another.")]
        )


class ResumeTester(BackgroundTask[TaskStatus]):
    """Holds the test of this program; it ends as "same" or "different"."""

    def __init__(self, is_training: Callable[[], bool]) -> None:
        super().__init__("a test", TaskStatus(), is_training)

    def start(self, values: Mapping[str, object]) -> None:
        """Begin a test with these flat settings.

        Raises:
            RefusedError: a run or a test is in progress.
        """
        self.begin("Cannot test now", partial(self._work, dict(values)))

    def _work(self, values: Mapping[str, object]) -> TaskStatus:
        """Raises Ed2Error, StopRequested."""
        result = run_resume_test(values, None, tell=self.tell, should_stop=self.should_stop)
        return TaskStatus("same" if result.is_same else "different", result.as_text())
