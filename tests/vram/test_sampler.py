"""What the driver says of several GPUs, split into this program's share and that of others."""

import os
import sys
from types import SimpleNamespace

import pytest

from ed2.ui.html import memory_html
from ed2.vram.sampler import CardUse, MemorySampler, Share

GB = 2**30
OF_A_RANK, OF_ANOTHER = os.getppid(), 1
"""Numbers of processes that exist."""


def driver(*used: dict[int, int]) -> SimpleNamespace:
    """Of GPUs of 24 GB, each with the bytes that processes use."""

    def running(card: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in used[card].items()]

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(used),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(total=24 * GB, used=sum(used[card].values())),
        nvmlDeviceGetName=lambda card: "A GPU",
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=51),
        nvmlDeviceGetComputeRunningProcesses=running,
    )


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    used = driver({OF_A_RANK: 10 * GB, OF_ANOTHER: GB}, {os.getpid(): 2 * GB, OF_ANOTHER: 3 * GB})
    monkeypatch.setitem(sys.modules, "pynvml", used)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("ed2.vram.sampler._torch_in_use", lambda: None)


def test_every_gpu_is_read_and_processes_of_a_run_count_as_ours(two_gpus: None) -> None:
    use = MemorySampler().read([OF_A_RANK])
    assert use.cards == (CardUse("A GPU", Share(24, 10, 1), 50), CardUse("A GPU", Share(24, 2, 3), 50))
    twice = MemorySampler().read([os.getpid()]).pc.own
    assert twice == pytest.approx(2 * use.pc.own, abs=0.3) and twice > use.pc.own
    html = memory_html(use)
    assert "A GPU (1 of 2): this program 10.0, others 1.0 of 24.0 GB" in html
    assert "A GPU (2 of 2): this program 2.0, others 3.0 of 24.0 GB" in html


def test_only_gpus_that_programs_may_use_are_read(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    use = MemorySampler().read()
    assert [card.share for card in use.cards] == [Share(24, 2, 3)]
    assert "A GPU: this program 2.0" in memory_html(use)


def test_a_driver_that_does_not_tell_processes_apart_is_not_said_to_do_so(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetComputeRunningProcesses", lambda card: [])
    assert MemorySampler().read().cards[0].share == Share(24, 0, 11)
    use = MemorySampler().read([OF_A_RANK])
    assert use.cards[0].share == Share(24, 0, 11, is_split=False)
    assert "A GPU (1 of 2): in use 11.0 of 24.0 GB" in memory_html(use)


def test_a_process_that_has_ended_counts_for_nothing(two_gpus: None) -> None:
    assert MemorySampler().read([2**22 + 1]).pc.own == pytest.approx(MemorySampler().read().pc.own, abs=0.2)
