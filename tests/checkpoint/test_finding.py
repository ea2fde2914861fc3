"""A damaged checkpoint is found by its bytes, named, and the one before is taken."""

import errno
import io
import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ed2.app.reporters.console import ConsoleReporter
from ed2.app.reporters.jsonl import cut_back
from ed2.app.resolve import resolve_settings
from ed2.app.resuming import VerifyProgress
from ed2.app.run_settings import settings_for_check
from ed2.app.run_view import RunView
from ed2.app.runs.records import find_runs
from ed2.checkpoint.folder import HASHING_THREADS
from ed2.checkpoint.resume import Checkpoint, newest_below, newest_of_run
from ed2.checkpoint.run_lock import only_trainer
from ed2.errors import CheckpointError, StopRequested
from ed2.events import Event, EventBus, PhaseChanged
from ed2.training.controls import Controls

Damage = Callable[[Path, Path], None]


def flip_a_bit(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zero(file: Path, other: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def delete(file: Path, other: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


class StopAfter:
    """Asks for a stop when it was told of so many blocks."""

    def __init__(self, blocks: int) -> None:
        self._controls, self._blocks, self.told = Controls(), blocks, 0
        self._verifying = VerifyProgress(EventBus(), self._controls)

    def __call__(self, name: str, done: int, total: int) -> None:
        self.told += 1
        if self.told == self._blocks:
            self._controls.stop(2)
        self._verifying(name, done, total)


def checkpoints_of(run_dir: Path) -> tuple[Path, Path]:
    """The older and the newest checkpoint."""
    folders = [f for f in (run_dir / "ckpts").iterdir() if (f / "training_state").is_dir()]
    older, newest = sorted(folders, key=lambda f: int(f.name.rpartition("-gs")[2]))
    return older, newest


@pytest.mark.parametrize("damage", [flip_a_bit, cut, zero, delete, swap])
def test_damage_to_any_file_of_the_newest_checkpoint_is_found_and_the_previous_one_used(
    run_dir: Path, damage: Damage
) -> None:
    older, newest = checkpoints_of(run_dir)
    names = sorted(str(f.relative_to(newest)) for f in newest.rglob("*") if f.is_file())
    assert {"manifest.json", "training_state/state.json", "unet/diffusion_pytorch_model.safetensors"} <= set(names)
    tried = 0
    for name in names:
        kept = (newest / name).read_bytes()
        if damage is swap and kept == (older / name).read_bytes():
            continue
        damage(newest / name, older / name)
        found = newest_of_run(run_dir)
        assert found.checkpoint and found.checkpoint.path == older, name
        assert re.match(
            rf"{newest.name} is damaged \(.+\) and was renamed to \.damaged-\d+-{newest.name}: "
            rf"continuing from {older.name}",
            found.notes[0],
        ), found
        assert name in found.notes[0] or name == "manifest.json", found
        assert not newest.exists(), "its name is free"
        (aside,) = newest.parent.glob(f".damaged-*-{newest.name}")
        aside.rename(newest)
        (newest / name).write_bytes(kept)
        tried += 1
    print(f"{damage.__name__}: {tried} files")
    assert tried >= (4 if damage is swap else 15)
    assert newest_of_run(run_dir).checkpoint


def test_a_run_resumes_from_the_previous_checkpoint_and_says_so(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    flip_a_bit(newest / "unet" / "diffusion_pytorch_model.safetensors", older)
    for name in ("findlast", str(run_dir)):
        with only_trainer(run_dir):  # it keeps its name while somebody trains there
            start = resolve_settings({"resume_ckpt": name, "logdir": str(run_dir.parent)}, None)
        assert newest.is_dir()
        assert start.checkpoint and start.checkpoint == older
        if name == "findlast":
            reason = r"\(unet/diffusion_pytorch_model.safetensors has changed since it was written\)"
            assert re.match(f"{newest.name} is damaged {reason}: continuing from {older.name}", start.notes[0])


def test_a_temporarily_unreadable_checkpoint_keeps_its_name(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newest = checkpoints_of(run_dir)
    unreadable = newest / "vae" / "config.json"
    real = Path.open

    def refuse(self: Path, *given: Any, **options: Any) -> Any:
        if self == unreadable:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        found = newest_of_run(run_dir)
        with pytest.raises(CheckpointError, match="cannot be read"):
            resolve_settings({"resume_ckpt": str(newest)}, None)
    assert found.checkpoint and found.checkpoint.path == older
    assert found.notes == [
        f"{newest.name} cannot be read at the moment (vae/config.json cannot be read (Too many open files)): "
        f"continuing from {older.name}."
    ]
    assert not found.checkpoint.is_newest, "so that it goes on in a new folder"
    again = newest_of_run(run_dir)
    assert again.checkpoint and (again.checkpoint.path, again.notes) == (newest, [])


def test_a_damaged_checkpoint_named_by_the_user_is_refused_with_the_previous_sound_one(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    flip_a_bit(newest / "training_state" / "optimizer-unet.safetensors", older)
    with pytest.raises(CheckpointError, match="is damaged") as error:
        resolve_settings({"resume_ckpt": str(newest)}, None)
    assert f"--resume_ckpt {older}" in str(error.value)
    assert "add --weights_only: its weights are intact" in str(error.value)
    assert newest.exists()
    start = resolve_settings({"resume_ckpt": str(newest), "weights_only": True, "data_root": [str(run_dir)]}, None)
    assert start.base == newest
    flip_a_bit(newest / "vae" / "config.json", older)
    with pytest.raises(CheckpointError, match=r"vae/config\.json"):
        resolve_settings({"resume_ckpt": str(newest), "weights_only": True, "data_root": [str(run_dir)]}, None)


def test_a_stop_ends_the_comparison_without_calling_anything_damaged(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    flip_a_bit(newest / "vae" / "config.json", older)
    for name in ("findlast", str(run_dir), str(newest)):
        for seen in (1, 4, 25):  # also in the second look before a damaged one is renamed
            stopping = StopAfter(seen)
            with pytest.raises(StopRequested) as stop:
                resolve_settings({"resume_ckpt": name, "logdir": str(run_dir.parent)}, None, stopping)
            assert stop.value.signal_number == 2
            assert seen <= stopping.told <= seen + HASHING_THREADS
            assert {path.name for path in newest.parent.iterdir()} >= {older.name, newest.name}
            assert not list(newest.parent.glob(".damaged-*"))
    assert resolve_settings({"resume_ckpt": str(run_dir)}, None).base == older


def test_progress_of_the_comparison_is_shown_in_the_terminal_and_on_the_page(run_dir: Path) -> None:
    newest = checkpoints_of(run_dir)[1]
    told, view, stream = list[Event](), RunView(), io.StringIO()
    seconds = iter(range(0, 100_000, 3))
    bus = EventBus([told.append, view, ConsoleReporter(stream)])
    progress = VerifyProgress(bus, Controls(), clock=lambda: float(next(seconds)))
    resolve_settings({"resume_ckpt": str(run_dir)}, None, progress)
    details = [event.detail for event in told if isinstance(event, PhaseChanged)]
    assert re.fullmatch(rf"comparing every byte of {newest.name}, [\d.]+ MB", details[0])
    assert re.fullmatch(rf"comparing {newest.name}, [\d.]+ [kM]B of [\d.]+ MB, about .+ left", details[1])
    assert view.snapshot().detail == details[-1]
    assert stream.getvalue().splitlines() == [f"Preparing: {detail}." for detail in details]


def test_without_any_sound_checkpoint_every_damage_is_reported(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    for checkpoint in (older, newest):
        delete(checkpoint / "training_state" / "state.json", checkpoint)
    with pytest.raises(CheckpointError) as error:
        resolve_settings({"resume_ckpt": str(run_dir)}, None)
    assert older.name in str(error.value) and newest.name in str(error.value)


def test_a_checkpoint_from_before_manifests_is_checked_by_its_headers(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    for checkpoint in (older, newest):
        (checkpoint / "manifest.json").unlink()
        state = checkpoint / "training_state" / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "format": 1}))
    found = newest_below(run_dir.parent)
    assert found.checkpoint and (found.checkpoint.path, found.notes) == (newest, [])
    cut(newest / "unet" / "diffusion_pytorch_model.safetensors", older)
    assert newest_below(run_dir.parent).checkpoint == newest_of_run(run_dir).checkpoint
    assert not newest.exists()


def test_a_checkpoint_whose_training_state_was_thinned_is_sound_as_a_model(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    shutil.rmtree(newest / "training_state")
    found = newest_of_run(run_dir)
    assert found.checkpoint and (found.checkpoint.path, found.damaged) == (older, ())
    values = {"resume_ckpt": str(newest), "data_root": [str(run_dir)]}
    assert resolve_settings(values, None).base == newest


def test_a_checkpoint_of_a_newer_version_is_skipped_and_keeps_its_name(run_dir: Path) -> None:
    older, newest = checkpoints_of(run_dir)
    state = newest / "training_state" / "state.json"
    values = json.dumps({**json.loads(state.read_text()), "format": 99}).encode()
    state.write_bytes(values)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["training_state/state.json"] = {"bytes": len(values), "sha256": sha256(values).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    found = newest_of_run(run_dir)
    assert found.checkpoint and found.checkpoint.path == older
    assert "was written by another version of this program" in found.notes[0]
    assert newest.exists()


@pytest.mark.parametrize("left_out", [["0/a.png"], {"training": "0/a.png"}, {"training": [3]}])
def test_a_list_of_left_out_images_of_another_kind_is_damage(run_dir: Path, left_out: object) -> None:
    _, newest = checkpoints_of(run_dir)
    state = newest / "training_state" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "left_out": left_out}))
    with pytest.raises(CheckpointError, match="left_out is"):
        Checkpoint.open(newest)


DEEP = b"[" * 200_000
ENDLESS = b'{"step": 1e999, "saved_at": 3, "state": {"step": 1e999}}'


@pytest.mark.parametrize(
    "broken", [DEEP, ENDLESS, b"[]", b'{"step": 1, "files": {"a": {"bytes": "x", "sha256": "y"}}}']
)
def test_a_manifest_that_cannot_be_understood_is_damage_like_any_other(run_dir: Path, broken: bytes) -> None:
    older, newest = checkpoints_of(run_dir)
    (newest / "manifest.json").write_bytes(broken)
    stranger = run_dir.parent / "another"
    for name in ("ckpts/last-gs00009/training_state/state.json", "ckpts/last-gs00009/manifest.json", "events.jsonl"):
        (stranger / name).parent.mkdir(parents=True, exist_ok=True)
        (stranger / name).write_bytes(broken)
    start = resolve_settings({"resume_ckpt": "findlast", "logdir": str(run_dir.parent)}, None)
    assert start.checkpoint and start.checkpoint == older
    assert settings_for_check({"resume_ckpt": "findlast", "logdir": str(run_dir.parent)}, None).settings
    assert len(find_runs(run_dir.parent)) == 2
    with (run_dir / "events.jsonl").open("ab") as events:
        events.write(b'{"step": Infinity}\n' + DEEP + b"\n" + ENDLESS + b"\n")
    cut_back(run_dir / "events.jsonl", 1_000)
    assert all(json.loads(line)["step"] <= 1_000 for line in (run_dir / "events.jsonl").read_bytes().splitlines())
