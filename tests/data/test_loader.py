import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ed2.data.batch import Batch, as_numbers, split_batch, stacked
from ed2.data.buckets import crop_box
from ed2.data.example import Example
from ed2.data.folder import ScanOptions, scan
from ed2.data.loader import Loader
from ed2.data.pixels import LoadedImage, LoaderOptions, crop_offset, load_image
from ed2.data.variants import Crop, VisitKey
from ed2.errors import Problem
from tests.data.planning import plan_epoch

OPTIONS = LoaderOptions(seed=555, batch_size=3, grad_accum=2, threads=2, ahead=3)


def ignore(problem: Problem) -> None:
    raise AssertionError(f"nothing should be wrong: {problem}")


def contents(batch: Batch) -> tuple[object, ...]:
    return (
        batch.pixels.numpy().tobytes(),
        batch.pixels.shape,
        batch.captions,
        batch.loss_scale.tolist(),
        batch.visits,
        batch.names,
        batch.bucket,
        batch.original_size.tolist(),
        batch.crop.tolist(),
    )


def all_of(examples: tuple[Example, ...], options: LoaderOptions, epoch: int = 0, start: int = 0) -> list[object]:
    with Loader(examples, options, on_problem=ignore) as loader:
        return [[contents(batch) for batch in group] for group in loader.groups(epoch, start)]


def test_batches_follow_the_plan(examples: tuple[Example, ...]) -> None:
    plan = plan_epoch(examples, seed=555, epoch=2, batch_size=3, grad_accum=2)
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        groups = list(loader.groups(2))
    assert len(groups) == len(plan)
    for group, planned in zip(groups, plan, strict=True):
        for batch, expected in zip(group, planned, strict=True):
            assert batch.bucket == expected.bucket
            shown = [(2, examples[visit.example].key, visit.repeat) for visit in expected.visits]
            assert [tuple(key) for key in batch.visits] == shown
            assert batch.names == tuple(examples[visit.example].name for visit in expected.visits)


def test_pixels_and_loss_scales_come_as_the_model_wants_them(examples: tuple[Example, ...]) -> None:
    scaled = [replace(example, loss_scale=number / 4) for number, example in enumerate(examples)]
    scale_of = {example.name: example.loss_scale for example in scaled}
    with Loader(scaled, OPTIONS, on_problem=ignore) as loader:
        for group in loader.groups(0):
            for batch in group:
                width, height = batch.bucket
                assert batch.pixels.shape == (len(batch), 3, height, width)
                assert batch.pixels.dtype == torch.uint8
                assert batch.loss_scale.tolist() == [scale_of[name] for name in batch.names]


def test_black_is_minus_one_white_is_one_and_red_comes_first(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, 32:] = 255
    pixels[:32, :32, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    examples = scan([tmp_path], ScanOptions(resolution=64)).examples
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        ((batch,),) = loader.groups(0)
    assert torch.equal(batch.pixels[0], torch.from_numpy(pixels).permute(2, 0, 1))
    numbers = as_numbers(batch.pixels, torch.device("cpu"))
    assert torch.equal(numbers, batch.pixels / 127.5 - 1)
    assert numbers.unique().tolist() == [-1, 1]


@pytest.mark.gpu
def test_a_gpu_makes_the_same_numbers_of_pixels_as_a_cpu(examples: tuple[Example, ...]) -> None:
    every = stacked([np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)], pinned=True)
    assert every.is_pinned()
    card = as_numbers(every, torch.device("cuda")).cpu()
    assert torch.equal(card, as_numbers(every, torch.device("cpu")))
    with Loader(examples, replace(OPTIONS, pinned=True), on_problem=ignore) as loader:
        assert all(batch.pixels.is_pinned() for group in loader.groups(0) for batch in group)


@pytest.mark.parametrize(("threads", "ahead"), [(2, 1), (4, 8)])
def test_the_bytes_are_the_same_for_any_number_of_threads(
    examples: tuple[Example, ...], threads: int, ahead: int
) -> None:
    one = all_of(examples, replace(OPTIONS, threads=1, ahead=2))
    assert all_of(examples, replace(OPTIONS, threads=threads, ahead=ahead)) == one


def test_the_bytes_are_the_same_from_the_middle_of_an_epoch(examples: tuple[Example, ...]) -> None:
    whole = all_of(examples, OPTIONS, epoch=1)
    assert len(whole) > 4
    for start in (1, 3, len(whole) - 1, len(whole)):
        assert all_of(examples, OPTIONS, epoch=1, start=start) == whole[start:]


def test_one_loader_yields_the_same_epochs_as_fresh_ones(examples: tuple[Example, ...]) -> None:
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        for epoch in range(3):
            got = [[contents(batch) for batch in group] for group in loader.groups(epoch)]
            assert got == all_of(examples, OPTIONS, epoch=epoch)


def test_an_unfinished_epoch_can_be_resumed_or_another_started(examples: tuple[Example, ...]) -> None:
    whole = all_of(examples, OPTIONS)
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        begun = loader.groups(0)
        next(begun), next(begun)
        begun.close()  # type: ignore[attr-defined]
        assert [[contents(batch) for batch in group] for group in loader.groups(0, 2)] == whole[2:]
        next(loader.groups(5))
        assert [[contents(batch) for batch in group] for group in loader.groups(0)] == whole


def test_an_iterator_replaced_by_another_says_so(examples: tuple[Example, ...]) -> None:
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        first = loader.groups(0)
        next(first)
        next(loader.groups(1))
        with pytest.raises(RuntimeError, match="closed or moved"):
            next(first)


def test_the_next_epoch_is_started_before_this_one_ends(
    examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_started = threading.Event()

    def watched(example: Example, visit: VisitKey, options: LoaderOptions) -> LoadedImage:
        if visit.epoch == 1:
            is_started.set()
        return load_image(example, visit, options)

    monkeypatch.setattr("ed2.data.loader.load_image", watched)
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        list(loader.groups(0))
        assert is_started.wait(10)


def test_no_more_batches_than_asked_are_decoded_ahead(
    examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(
        "ed2.data.loader.load_image",
        lambda example, *rest: (begun.append(example.name), load_image(example, *rest))[1],
    )
    options = replace(OPTIONS, batch_size=1, grad_accum=1, ahead=2, threads=4)
    with Loader(examples, options, on_problem=ignore) as loader:
        groups = loader.groups(0)
        for taken in range(1, 6):
            next(groups)
            time.sleep(0.05)
            assert len(begun) <= taken + 2


def test_captions_are_dropped_and_images_flipped_as_often_as_asked(examples: tuple[Example, ...]) -> None:
    with Loader(examples, OPTIONS, on_problem=ignore) as loader:
        captions = [
            caption for epoch in range(5) for group in loader.groups(epoch) for b in group for caption in b.captions
        ]
    assert 0.15 < captions.count("") / len(captions) < 0.45
    always = tuple(replace(example, flip_p=1.0, cond_dropout=1.0) for example in examples)
    never = tuple(replace(example, flip_p=0.0, cond_dropout=0.0) for example in examples)
    with Loader(always, OPTIONS, on_problem=ignore) as flipping, Loader(never, OPTIONS, on_problem=ignore) as plain:
        for flipped_group, plain_group in zip(flipping.groups(0), plain.groups(0), strict=True):
            for flipped, straight in zip(flipped_group, plain_group, strict=True):
                assert torch.equal(flipped.pixels.flip(3), straight.pixels)
                assert set(flipped.captions) == {""} and "" not in straight.captions


def test_crops_differ_between_repeats_and_epochs_unless_jitter_is_off(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat.png")
    examples = [replace(example, multiply=4) for example in scan([tmp_path], ScanOptions(resolution=64)).examples]
    for jitter in (True, False):
        with Loader(examples, replace(OPTIONS, jitter=jitter), on_problem=ignore) as loader:
            shown = {
                image.numpy().tobytes()
                for epoch in (0, 1)
                for group in loader.groups(epoch)
                for batch in group
                for image in batch.pixels
            }
        assert len(shown) > 5 if jitter else len(shown) == 1


def test_a_large_jpeg_decoded_small_shows_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((1303, 901), Image.Resampling.BICUBIC)
    large.save(tmp_path / "cat.jpg", quality=95)
    (example,) = scan([tmp_path], ScanOptions(resolution=64)).examples
    with Loader([example], replace(OPTIONS, jitter=False), on_problem=ignore) as loader:
        ((batch,),) = loader.groups(0)
    expected = large.resize(example.bucket, Image.Resampling.LANCZOS, box=example.crop)
    got = batch.pixels[0].permute(1, 2, 0).numpy().astype(np.float32)
    error = np.square(got - np.asarray(expected)).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_a_loader_closes_at_once_with_work_in_progress(examples: tuple[Example, ...]) -> None:
    before = threading.active_count()
    loader = Loader(examples * 20, replace(OPTIONS, ahead=50, threads=4), on_problem=ignore)
    groups = loader.groups(0)
    next(groups)
    start = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - start < 5
    assert threading.active_count() == before
    with pytest.raises(RuntimeError):
        next(groups)


def test_after_an_error_in_its_listener_a_loader_starts_over(examples: tuple[Example, ...]) -> None:
    examples[0].path.unlink()
    told: list[Problem] = []

    def fail_once(problem: Problem) -> None:
        told.append(problem)
        raise KeyboardInterrupt

    with Loader(examples, OPTIONS, on_problem=fail_once) as loader:
        with pytest.raises(KeyboardInterrupt):
            list(loader.groups(0))
        names = [name for group in loader.groups(0) for batch in group for name in batch.names]
    assert len(told) == 1
    assert len(names) == sum(int(example.multiply) for example in examples[1:])


def test_without_visits_there_are_no_steps(examples: tuple[Example, ...]) -> None:
    unseen = tuple(replace(example, multiply=0.0) for example in examples)
    assert all_of(unseen, OPTIONS) == []
    assert all_of((), OPTIONS) == []


def test_a_batch_is_split_with_the_same_draws(examples: tuple[Example, ...]) -> None:
    with Loader(examples, replace(OPTIONS, batch_size=5), on_problem=ignore) as loader:
        batch = max((batch for group in loader.groups(0) for batch in group), key=len)
    parts = split_batch(batch, 2)
    assert [len(part) for part in parts] == [2, 3]
    assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)
    assert parts[0].visits + parts[1].visits == batch.visits
    assert parts[0].captions + parts[1].captions == batch.captions
    assert [len(part) for part in split_batch(batch, 50)] == [1] * 5
    assert contents(split_batch(batch, 1)[0]) == contents(batch)


@pytest.mark.parametrize(("is_mirrored", "left"), [(False, 17), (True, 34)])
def test_a_crop_is_counted_in_pixels_of_the_resized_image(is_mirrored: bool, left: int) -> None:
    """3000x2000 into 1216x832 by hand: a crop of 2,880x1,970 is scaled by 0.42222, 40 and 80 pixels are cut off."""
    box = (40, 10, 2920, 1980)
    assert crop_offset((3000, 2000), Crop(box, is_mirrored), (1216, 832)) == (4, left)


def test_a_centred_crop_of_3000x2000_begins_16_pixels_from_the_left() -> None:
    """2,923 of 3,000 pixels are used, scaled by 0.41601: 38 are cut off at the left, 39 at the right."""
    box = crop_box((3000, 2000), (1216, 832))
    assert box == (38, 0, 2961, 2000)
    assert crop_offset((3000, 2000), Crop(box, False), (1216, 832)) == (0, 16)
    assert crop_offset((3000, 2000), Crop(box, True), (1216, 832)) == (0, 16)


def test_batches_say_how_large_images_were_and_what_was_cut_off(examples: tuple[Example, ...]) -> None:
    by_key = {example.key: example for example in examples}
    mirrored = [replace(example, flip_p=0.5) for example in examples]
    with Loader(mirrored, OPTIONS, on_problem=ignore) as loader:
        batches = [batch for group in loader.groups(0) for batch in group]
    crops = []
    for batch in batches:
        for visit, size, crop in zip(batch.visits, batch.original_size.tolist(), batch.crop.tolist(), strict=True):
            width, height = by_key[visit.key].size
            assert size == [height, width]
            crops.append(crop)
        split = split_batch(batch, 2)
        assert torch.cat([part.crop for part in split]).equal(batch.crop)
        assert torch.cat([part.original_size for part in split]).equal(batch.original_size)
    assert any(any(crop) for crop in crops), "no image of this dataset is cropped"
