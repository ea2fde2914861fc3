"""Saving while the training goes on."""

import ctypes
import mmap
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ed2.app.run_view import RunView
from ed2.checkpoint import background
from ed2.checkpoint.folder import NewFolder, find_damage
from ed2.checkpoint.snapshot import HostBuffers
from ed2.disk import drop_from_cache, to_disk
from ed2.events import CheckpointSaved, Event, SavingChanged, StepDone, Warned
from tests.runs import Trained, differing, train

Values = dict[str, object]


def test_a_background_save_writes_the_step_at_which_it_started(
    short_values: Values, saved_run: Trained, monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    real, stepped = NewFolder.add_tensors, threading.Event()
    threads = set()

    def wait_for_steps(self: NewFolder, *given: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            threads.add(threading.current_thread().name)
            assert stepped.wait(60), "the training waits for the writer"
        real(self, *given, **options)

    view, shown = RunView(), list[bool]()

    def watch(event: Event) -> None:
        view(event)
        if isinstance(event, StepDone):
            shown.append(view.snapshot().is_saving)
        if isinstance(event, StepDone) and event.step == 5:
            stepped.set()

    monkeypatch.setattr(NewFolder, "add_tensors", wait_for_steps)
    slow = train({**short_values, "logdir": str(quick_path / "logs")}, observer=watch)
    monkeypatch.undo()
    monkeypatch.setattr(background, "has_memory_for", lambda num_bytes: False)
    waiting = train({**short_values, "logdir": str(quick_path / "logs")})
    assert threads == {"saving"}
    assert shown[:5] == [False, False, False, True, True], "the page shows it while the training goes on"
    assert slow.ended.phase == waiting.ended.phase == "done"
    for one, other in zip(slow.of(CheckpointSaved), waiting.of(CheckpointSaved), strict=True):
        assert (one.step, one.path.name) == (other.step, other.path.name)
        assert differing(one.path, other.path) == []
    order = [(type(e).__name__, e.step) for e in slow.events]
    assert order.index(("CheckpointSaved", 3)) > order.index(("StepDone", 5))
    kinds = [type(e).__name__ for e in slow.events if isinstance(e, SavingChanged | CheckpointSaved)]
    assert kinds == ["SavingChanged", "CheckpointSaved", "SavingChanged"] * 2


def is_in_memory(file: Path) -> bool:
    """Whether any page of `file` is in the system's cache; asked without a read, which would begin to fetch it."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        start = ctypes.addressof(ctypes.c_char.from_buffer(content))
        pages = (ctypes.c_ubyte * -(-len(content) // mmap.PAGESIZE))()
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(content)), pages)
    if failed:
        pytest.skip("this system does not tell what is in memory")
    return any(page & 1 for page in pages)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_was_saved_does_not_fill_the_memory(short_values: Values, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(1 << 20))
    to_disk(probe)
    if is_in_memory(probe):
        pytest.skip("this drive is in memory, or keeps what it is asked to drop")
    probe.read_bytes()
    assert is_in_memory(probe)
    drop_from_cache([probe, tmp_path / "missing"])
    assert not is_in_memory(probe)
    trained = train({**short_values, "logdir": str(tmp_path / "logs"), "save_ckpt_dir": str(tmp_path)})
    saved = trained.of(CheckpointSaved)[-1]
    files = list(saved.path.rglob("*.safetensors"))
    assert len(files) > 3 and saved.single_file
    assert [file.name for file in (*files, saved.single_file) if is_in_memory(file)] == []


def test_a_copy_shares_no_memory_with_the_run(short_values: Values, quick_path: Path) -> None:
    """Every tensor that training changes is copied, and every copy is alone."""
    from ed2.checkpoint import saver
    from ed2.checkpoint.snapshot import Snapshot
    from ed2.models.base import trained_parts

    taken: list[tuple[Snapshot, set[int]]] = []
    buffers: list[HostBuffers] = []

    def watch(run: Any, name: str, about: Any, copies: HostBuffers | None, lora_base: bytes | None) -> Snapshot:
        snapshot = real(run, name, about, copies, lora_base)
        live: set[int] = set()
        for part in trained_parts(run.model).values():
            live |= {tensor.untyped_storage().data_ptr() for tensor in part.saved().values()}
        for optimizer in run.optimizers:
            for values in optimizer.state.values():
                live |= {v.untyped_storage().data_ptr() for v in values.values() if hasattr(v, "untyped_storage")}
        live |= {t.untyped_storage().data_ptr() for named in run.ema.state().values() for t in named.values()}
        if copies:
            taken.append((snapshot, live))
            buffers.append(copies)
        return snapshot

    real = saver.take_snapshot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "take_snapshot", watch)
        train({**short_values, "logdir": str(quick_path / "logs"), "disable_textenc_training": False})
    assert taken
    assert all(kept.num_bytes == 0 for kept in buffers), "the page would hold that memory until it is closed"
    for snapshot, live in taken:
        groups = [*snapshot.state_tensors.values(), *snapshot.averages.values()]
        groups += [snapshot.weights["unet"], snapshot.weights["text_encoder"]]
        held = {tensor.untyped_storage().data_ptr() for group in groups for tensor in group.values()}
        assert len(held) > 100
        assert not held & live


def test_the_memory_of_a_copy_is_used_again_and_holds_the_new_numbers() -> None:
    buffers, tensor = HostBuffers(), torch.randn(3, 4, 5).transpose(0, 2)
    first = buffers.take(tensor)
    other = buffers.take(tensor)
    assert torch.equal(first, tensor) and first.is_contiguous() and first.data_ptr() != other.data_ptr()
    buffers.finish(torch.device("cpu"))
    assert buffers.num_bytes == 2 * tensor.nbytes
    size = 2 * tensor.nbytes + 1000
    assert buffers.missing(size, torch.device("cpu")) == 1000
    assert buffers.missing(size, torch.device("cuda")) >= 1310, "PyTorch rounds up to powers of two: SDXL takes 1.31"
    places = {first.data_ptr(), other.data_ptr()}
    buffers.reuse()
    again = buffers.take(tensor + 1)
    assert again.data_ptr() in places and torch.equal(again, tensor + 1)
    buffers.finish(torch.device("cpu"))
    assert buffers.num_bytes == tensor.nbytes


def test_a_failed_save_is_reported_and_retried_at_the_next_interval(
    values: Values, monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    calls = []
    real = NewFolder.add_tensors

    def fail_once(self: NewFolder, *given: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(self, *given, **options)

    monkeypatch.setattr(NewFolder, "add_tensors", fail_once)
    trained = train({**values, "max_epochs": 3})
    warning, resolved = (e for e in trained.of(Warned) if "be written" in e.text)
    assert (resolved.step, resolved.ends) == (6, warning.text)
    assert "the disk is full" in warning.text and "try again at the next interval" in warning.text
    assert [e.step for e in trained.of(CheckpointSaved)] == [6, 9]
    assert all(find_damage(e.path) is None for e in trained.of(CheckpointSaved))
    assert not list((trained.run_dir / "ckpts").glob(".tmp*"))
