"""A disk that fills up, a folder that goes: the training goes on, and what was saved before still loads."""

import errno
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from ed2.app.runs.records import replay_run
from ed2.checkpoint import room, saver
from ed2.checkpoint.resume import newest_of_run
from ed2.checkpoint.run_lock import only_trainer
from ed2.disk_errors import plain_reason
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved, Event, RunEnded, StepDone, Warned
from tests.checkpoint.crashing import in_child
from tests.runs import Trained, said, train

Values = dict[str, object]


def go_on_with_small_files_only(run_dir: Path, limit: int) -> int:
    """Continue a run for two epochs in a child that may write no file larger than `limit`."""

    def run() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        trained = train({"resume_ckpt": str(run_dir), "max_epochs": 4})
        assert [e.step for e in trained.of(StepDone)] == list(range(7, 13)), "it trains to the end"
        told = [e.text for e in trained.of(Warned) if "the disk is full" in e.text]
        assert told, trained.events
        if not trained.of(CheckpointSaved):
            tells_how_to_go_on(trained, last=6, step=12)

    return in_child(run)


def tells_how_to_go_on(trained: Trained, *, last: int, step: int) -> None:
    """The end of a run whose last save failed says why, what is lost and how to get there again."""
    ended = trained.ended
    assert (ended.phase, ended.step) == ("failed", step)
    assert ended.checkpoint and ended.checkpoint.name.endswith(f"-gs{last:05d}"), ended
    lost = f"The {step - last} steps after {ended.checkpoint.name} were not saved; train "
    assert re.search(
        rf"^(stopped, but not saved\. )?The checkpoint \S+-gs{step:05d} could not be written: the disk is full[^.]*\. "
        rf"Free some space\. {lost}them again with --resume_ckpt findlast\.$",
        ended.reason,
    ), ended.reason


def stop_with_small_files_only(run_dir: Path) -> int:
    """Continue a run in a child that may write small files only, and stop it after two steps."""

    def run() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        trained = train({"resume_ckpt": str(run_dir), "max_epochs": 4}, stop_at=8)
        assert trained.ended.reason.startswith("stopped, but not saved. ")
        tells_how_to_go_on(trained, last=6, step=8)

    return in_child(run)


def sweep(run_dir: Path, sizes: list[int]) -> None:
    kept = shutil.copytree(run_dir, run_dir.with_name("kept"))
    for size in sizes:
        assert go_on_with_small_files_only(run_dir, size) == 0, size
        found = newest_of_run(run_dir)
        assert found.checkpoint and found.damaged == (), size
        assert not list((run_dir / "ckpts").glob(".tmp*")), size
        shutil.rmtree(run_dir)
        shutil.copytree(kept, run_dir)
    print(f"{len(sizes)} sizes, none lost", flush=True)


def largest(run_dir: Path) -> int:
    return max(f.stat().st_size for f in run_dir.rglob("*.safetensors"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_ends_no_run_and_loses_no_checkpoint(run_dir: Path) -> None:
    sweep(run_dir, [200_000, largest(run_dir) - 1])
    assert stop_with_small_files_only(run_dir) == 0


@pytest.mark.soak
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_is_full_at_any_of_forty_sizes(run_dir: Path) -> None:
    top = largest(run_dir) - 1
    sweep(run_dir, [100_000 + number * (top - 100_000) // 39 for number in range(40)])


def torch_save_on(limited: Callable[[bytes], int]) -> BaseException:
    """What torch.save raises where the file under it takes no more."""

    class Full:
        def write(self, content: bytes) -> int:
            return limited(content)

        def flush(self) -> None:
            """Nothing is kept back."""

    try:
        torch.save({"a": torch.ones(100_000)}, Full())
    except (OSError, RuntimeError) as error:
        return error
    raise AssertionError("it was written")


def test_all_errors_of_a_full_disk_give_the_same_message() -> None:
    def full(content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    in_rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    in_torch = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598")
    wrapped = CheckpointError("Cannot write", "x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (OSError(errno.ENOSPC, "No space left"), in_rust, in_torch, torch_save_on(full), wrapped):
        assert plain_reason(error) == "the disk is full", repr(error)
    assert plain_reason(OSError(errno.EFBIG, "File too large")).startswith("the disk is full")
    assert plain_reason(PermissionError(errno.EACCES, "x")) == "permission to write there is denied"
    assert plain_reason(OSError(errno.ESTALE, "x")).startswith("its folder is gone")


def test_a_save_without_room_is_skipped_and_retried(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, answers = shutil.disk_usage, list[int]()

    def fill_up(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            answers.append(1_000_000)

    def nearly_full(path: Path) -> object:
        real = usage(path)
        return real._replace(free=answers.pop()) if answers else real

    monkeypatch.setattr(room.shutil, "disk_usage", nearly_full)
    trained = train({**values, "max_epochs": 3, "sample_prompts": ""}, observer=fill_up)
    (told,) = (e.text for e in trained.of(Warned) if "was not saved" in e.text)
    assert " MB, but only 1.0 MB is free in" in told and "try again at the next interval" in told
    (over,) = (e for e in trained.of(Warned) if e.ends)
    assert over.ends == told and over.step == 6 and over.text.startswith("Resolved: checkpoints can be")
    assert not replay_run(trained.run_dir).problems  # nothing is left that needs attention
    assert [e.step for e in trained.of(CheckpointSaved)] == [6, 9]


@pytest.mark.parametrize("gone", ["deleted", "a file"])
def test_a_folder_removed_between_two_saves_ends_no_run(values: Values, gone: str) -> None:
    ckpts: list[Path] = []

    def watch(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and not ckpts:
            ckpts.append(event.path.parent)
        if isinstance(event, StepDone) and event.step == 5 and ckpts:
            shutil.rmtree(ckpts[0])
            if gone == "a file":
                ckpts[0].write_text("in the way")
        if isinstance(event, StepDone) and event.step == 8 and gone == "a file":
            ckpts[0].unlink(missing_ok=True)

    trained: Trained = train({**values, "max_epochs": 3}, observer=watch)
    steps = [e.step for e in trained.of(CheckpointSaved)]
    assert steps == ([3, 6, 9] if gone == "deleted" else [3, 9])
    told = [e.text for e in trained.of(Warned) if "there is a file where its folder should be" in e.text]
    assert len(told) == (gone == "a file")
    assert trained.ended.phase == "done"
    assert newest_of_run(trained.run_dir).checkpoint


def test_a_run_whose_folder_is_deleted_during_the_run_resumes_exactly(values: Values) -> None:
    described = dict[str, bytes]()
    locked = list[bool]()

    def delete(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            (run_dir,) = Path(str(values["logdir"])).iterdir()
            described.update({path.name: path.read_bytes() for path in run_dir.glob("[!.]*.json")})
            shutil.rmtree(run_dir.parent)
        if isinstance(event, CheckpointSaved) and event.step == 6:
            with pytest.raises(CheckpointError, match="is already being trained"), only_trainer(event.path.parents[1]):
                pass
            locked.append(True)

    trained = train({**values, "max_epochs": 2, "keep_last": 2}, observer=delete)
    assert (trained.ended.phase, locked) == ("done", [True])
    assert len([e for e in trained.of(Warned) if "were deleted" in e.text]) == 1
    assert set(described) == {"settings.json", "manifest.json", "pictures.json"}
    assert {name: (trained.run_dir / name).read_bytes() for name in described} == described
    again = train({"resume_ckpt": "findlast", "logdir": values["logdir"], "max_epochs": 3})
    assert (again.run_dir, again.of(StepDone)[0].step) == (trained.run_dir, 7)
    assert "bit-identical" not in said(again) and "new folder" not in said(again)


def test_the_last_save_is_attempted_whatever_the_forecast_says(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, wanted: object) -> None:
        raise CheckpointError(f"The checkpoint {name} was not saved", "no room.")

    monkeypatch.setattr(saver, "require_space", refuse)
    trained = train({**values, "max_epochs": 2})
    assert [e.step for e in trained.of(CheckpointSaved)] == [6]
    assert isinstance(trained.events[-1], RunEnded) and trained.ended.phase == "done"
