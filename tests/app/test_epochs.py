"""Which epoch a step belongs to: what terminal and page show where epochs are not of one length."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.reporters.console import ConsoleReporter
from ed2.app.run_view import RunView
from ed2.events import EpochEnded, Event, StepDone
from tests.runs import Values, train
from tests.tiny import make_images


class Terminal(io.StringIO):
    """Text that counts as a terminal, so that a progress bar is drawn."""

    def isatty(self) -> bool:
        return True


@dataclass
class Shown:
    """What the page shows after each step, and which epoch it really was."""

    view: RunView = field(default_factory=RunView)
    page: list[int | None] = field(default_factory=list)
    true: list[int] = field(default_factory=list)
    ended: int = 0

    def __call__(self, event: Event) -> None:
        self.view(event)
        if isinstance(event, StepDone):
            self.page.append(self.view.snapshot().epoch)
            self.true.append(self.ended + 1)
        self.ended += isinstance(event, EpochEnded)


def test_page_terminal_and_folder_show_the_epoch_of_a_step(values: Values, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", [(64, 64)] * 7)
    (folder / "multiply.txt").write_text("0.4")
    shown, terminal = Shown(), Terminal()
    console = ConsoleReporter(terminal)

    def observe(event: Event) -> None:
        shown(event)
        console(event)

    own = {"data_root": [str(folder)], "max_epochs": 5, "log_step": 1, "no_save_ckpt": True}
    trained = train({**values, **own}, observer=observe)
    assert len(set(map(shown.true.count, shown.true))) > 1, "the epochs of this test differ in length"
    assert shown.page == shown.true
    drawn = re.findall(r"Epoch (\d+)/5 [^\r\n]*\| (\d+)/", terminal.getvalue())
    assert all(int(epoch) == shown.true[int(step) - 1] for epoch, step in drawn if step != "0")
    assert len(drawn) > 2
    rebuilt = RunView()
    for step, epoch in enumerate(shown.true, 1):
        rebuilt.clear("preparing")
        rebuilt.replay(trained.run_dir, until=step)
        assert rebuilt.snapshot().epoch == epoch
