"""A program that dies at any call of the file system leaves a sound checkpoint, and the next save is whole."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from safetensors import safe_open

from ed2.app.resume_test.comparison import differences
from ed2.checkpoint.export import Exporter
from ed2.checkpoint.folder import find_damage, remove_leftovers
from ed2.checkpoint.resume import newest_of_run
from ed2.checkpoint.saver import Saver
from ed2.checkpoint.snapshot import HostBuffers, Snapshot
from ed2.events import EventBus
from tests.checkpoint.crashing import CRASHED, calls_of, crash_at, in_child
from tests.runs import train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

Values = dict[str, object]
IN_CI = 25
RESUMES = 40


@dataclass(frozen=True)
class Scene:
    """A run with two checkpoints and single files, and the third one that is to be written and thins them to two."""

    folder: Path
    run_name: str
    snapshot: Snapshot
    name: str
    before: str

    def copy(self, folder: Path) -> Path:
        """The same files by hard links: nothing in a save may change a file in its place."""
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self.folder, folder, copy_function=os.link))

    def save(self, folder: Path) -> Callable[[], object]:
        run_dir = folder / "logs" / self.run_name
        exporter = Exporter(folder / "single", self.run_name)
        saver = Saver(
            run_dir=run_dir, project="tiny", bus=EventBus(), exporter=exporter, keep_last=2, about={"versions": {}}
        )
        return lambda: saver.write(self.snapshot, self.name, "")


@pytest.fixture(scope="module")
def scene(short_values: Values, quick_disk: Path) -> Scene:
    """Made by a real run of three epochs whose last checkpoint is taken away again."""
    from ed2.checkpoint import saver

    folder = Path(tempfile.mkdtemp(dir=quick_disk))
    taken: list[Snapshot] = []
    real = saver.take_snapshot

    def keep(run, name, about, buffers, lora_base):  # type: ignore[no-untyped-def]
        taken.append(real(run, name, about, buffers or HostBuffers(), lora_base))
        return taken[-1]

    values = {"logdir": str(folder / "logs"), "save_ckpt_dir": str(folder / "single"), "max_epochs": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "take_snapshot", keep)
        trained = train({**short_values, **values})
    last = trained.checkpoint
    for path in (last, last.with_name(f"{last.name}_ema")):
        shutil.rmtree(path)
        (folder / "single" / f"{path.name}.safetensors").unlink()
    before = newest_of_run(trained.run_dir).checkpoint
    assert before
    return Scene(folder, trained.run_dir.name, taken[-1], last.name, before.path.name)


def require_sound(scene: Scene, folder: Path) -> None:
    """The newest checkpoint is the new one or the one before, and whole; no single file is cut short."""
    run_dir = folder / "logs" / scene.run_name
    remove_leftovers(run_dir / "ckpts")
    found = newest_of_run(run_dir)
    assert found.checkpoint and found.damaged == ()
    assert found.checkpoint.path.name in (scene.name, scene.before)
    for single in (folder / "single").glob("[!.]*.safetensors"):
        with safe_open(single, framework="pt") as tensors:
            assert len(tensors.keys()) > 100


def require_whole_again(scene: Scene, folder: Path) -> None:
    """Another save is whole, leaves no halves, and thins as it should."""
    run_dir = folder / "logs" / scene.run_name
    for half in (folder / "single").glob(".tmp-*"):
        os.utime(half, (0, 0))
    scene.save(folder)()
    found = newest_of_run(run_dir)
    assert found.checkpoint and (found.checkpoint.path.name, found.damaged) == (scene.name, ())
    assert {p.name for p in run_dir.joinpath("ckpts").iterdir()} == {
        name + end for name in (scene.name, scene.before) for end in ("", "_ema")
    }
    assert not list(folder.rglob(".tmp*")) and not list(folder.rglob(".trash*"))
    assert all(find_damage(path) is None for path in run_dir.joinpath("ckpts").iterdir())


def test_a_save_that_dies_at_any_of_some_calls_loses_nothing(scene: Scene, quick_path: Path) -> None:
    calls = calls_of(quick_path, scene.save(scene.copy(quick_path / "a")), quick_path / "calls", with_writes=False)
    assert {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.fsync"} <= set(calls)
    assert len(calls) > 100, len(calls)
    print(f"{len(calls)} calls")
    for number in range(IN_CI):
        point = number * (len(calls) - 1) // (IN_CI - 1)
        folder = scene.copy(quick_path / "a")
        assert crash_at(point, quick_path, scene.save(folder), with_writes=False) == CRASHED, (point, calls[point])
        require_sound(scene, folder)
        require_whole_again(scene, folder)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("with_writes", [False, True], ids=["all calls", "and all writes"])
def test_a_save_that_dies_at_any_call_at_all_loses_nothing(scene: Scene, quick_path: Path, with_writes: bool) -> None:
    save, listing = scene.save(scene.copy(quick_path / "a")), quick_path / "calls"
    calls = calls_of(quick_path, save, listing, with_writes=with_writes)
    for point, name in enumerate(calls):
        folder = scene.copy(quick_path / "a")
        assert crash_at(point, quick_path, scene.save(folder), with_writes=with_writes) == CRASHED, (point, name)
        require_sound(scene, folder)
        if name != "write" or point % 20 == 0:
            require_whole_again(scene, folder)
        if point % 100 == 99:
            print(f"{point + 1} of {len(calls)} calls, none lost", flush=True)
    print(f"{len(calls)} crash points, {calls.count('write')} of them writes: none lost", flush=True)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_run_that_dies_while_resuming_ends_with_the_same_bytes(short_values: Values, quick_path: Path) -> None:
    values: Values = {**short_values, "max_epochs": 3, "keep_last": 2, "log_step": 1}

    def begin(logdir: Path, stop_at: int | None) -> Path:
        assert in_child(lambda: train({**values, "logdir": str(logdir)}, stop_at=stop_at)) == 0
        return next(logdir.iterdir())

    straight, cut = begin(quick_path / "straight", None), begin(quick_path / "cut", 5)
    for name in ("events.jsonl", "samples.jsonl"):
        with (cut / name).open("ab") as file:
            file.write(b'{"step": 5, "ha')
    logs = quick_path / "logs"
    run_dir = logs / "tiny"

    def go_on() -> None:
        train({"resume_ckpt": str(run_dir), "logdir": str(logs)})

    def fresh() -> None:
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(cut, run_dir)

    fresh()
    calls = calls_of(logs, go_on, quick_path / "calls", with_writes=False)
    for number in range(RESUMES):
        fresh()
        point = number * (len(calls) - 1) // (RESUMES - 1)
        assert crash_at(point, logs, go_on, with_writes=False) == CRASHED, (point, calls[point])
        assert in_child(go_on) in (0, 1), "1: it was done already"
        assert differences(straight, run_dir) == [], (point, calls[point])
        assert not list(logs.rglob(".tmp*")) and not list(logs.rglob(".trash*")), (point, calls[point])
    print(f"{RESUMES} of {len(calls)} calls while a run goes on, none lost", flush=True)


def test_a_second_save_of_the_same_step_writes_nothing(scene: Scene, quick_path: Path) -> None:
    folder = scene.copy(quick_path / "a")
    scene.save(folder)()
    weights = folder / "logs" / scene.run_name / "ckpts" / scene.name / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_ino
    other = replace(scene, snapshot=replace(scene.snapshot, small_files={}))
    other.save(folder)()
    assert weights.stat().st_ino == before
