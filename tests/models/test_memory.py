"""Memory that PyTorch keeps on a GPU, and what is copied to it and back."""

from pathlib import Path

import pytest
import torch

from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.models.memory import NEARLY_FULL, RoomForSizes

LANDSCAPE, PORTRAIT = (576, 448), (448, 576)


def test_memory_is_released_before_another_size_and_only_on_a_nearly_full_gpu() -> None:
    fullness, released = NEARLY_FULL, 0

    def release() -> None:
        nonlocal released
        released += 1

    make_room = RoomForSizes(lambda: fullness, release)
    make_room(LANDSCAPE)
    make_room(LANDSCAPE)
    assert released == 0
    make_room(PORTRAIT)
    make_room(PORTRAIT)
    assert released == 1
    fullness = NEARLY_FULL - 0.01
    make_room(LANDSCAPE)
    assert released == 1


@pytest.mark.gpu
def test_a_gpu_gets_back_what_is_kept_for_another_size() -> None:
    make_room = RoomForSizes(lambda: 1.0, torch.cuda.empty_cache)
    make_room(LANDSCAPE)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    del_me = torch.ones(2**26, device="cuda")
    del del_me
    assert torch.cuda.memory_reserved() >= before + 2**28
    make_room(PORTRAIT)
    assert torch.cuda.memory_reserved() == before


@pytest.mark.gpu
def test_captions_of_frozen_encoders_are_complete_before_they_are_used(sd1: Path) -> None:
    card = torch.device("cuda:0")
    model = load(open_folder(sd1), trained=["unet"], device=card, frozen_dtype=torch.float32)
    captions = [f"caption number {number}" for number in range(8)]
    busy = torch.rand(8192, 8192, device=card)
    for _ in range(20):
        busy = (busy @ busy).clamp(0, 1)
    first = model.encode_captions(captions).hidden
    torch.cuda.synchronize(card)
    assert torch.equal(first, model.encode_captions(captions).hidden)
