"""Images that vanish, are damaged or are changed while a loader gives them."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ed2.data.example import Example, Finding
from ed2.data.folder import ScanOptions, scan
from ed2.data.loader import Batch, Loader
from ed2.data.pixels import LoaderOptions, require_readable
from ed2.errors import ImagesLostError, Problem
from tests.data.planning import plan_epoch

OPTIONS = LoaderOptions(seed=555, batch_size=3, grad_accum=2, threads=2, ahead=3)


def test_an_image_that_vanishes_is_left_out_and_reported_once(examples: tuple[Example, ...]) -> None:
    told: list[Problem] = []
    with Loader(examples, replace(OPTIONS, ahead=1), on_problem=told.append) as loader:
        epochs = [[batch for group in loader.groups(0) for batch in group]]
        gone, broken = examples[1], examples[4]
        gone.path.unlink()
        broken.path.write_bytes(b"")
        epochs += [[batch for group in loader.groups(epoch) for batch in group] for epoch in (2, 3)]
    assert gone.name in {name for batch in epochs[0] for name in batch.names}
    for batches in epochs[1:]:
        names = [name for batch in batches for name in batch.names]
        assert gone.name not in names and broken.name not in names
        assert len(names) == sum(int(example.multiply) for example in examples if example not in (gone, broken))
        assert all(len(batch) == len(batch.pixels) == len(batch.loss_scale) > 0 for batch in batches)
    assert sorted(str(problem.path) for problem in told) == sorted([gone.name, broken.name])
    assert all(isinstance(problem, Finding) and problem.what and problem.fix for problem in told)


def test_the_remaining_images_keep_their_draws_when_one_vanishes(examples: tuple[Example, ...]) -> None:
    def by_visit(batches: Iterator[Batch]) -> dict[object, bytes]:
        return {
            visit: batch.pixels[place].numpy().tobytes() + batch.captions[place].encode()
            for batch in batches
            for place, visit in enumerate(batch.visits)
        }

    with Loader(examples, OPTIONS, on_problem=pytest.fail) as loader:
        before = by_visit(batch for group in loader.groups(0) for batch in group)
    examples[0].path.unlink()
    with Loader(examples, OPTIONS, on_problem=lambda problem: None) as loader:
        after = by_visit(batch for group in loader.groups(0) for batch in group)
    assert after == {visit: content for visit, content in before.items() if visit.key != examples[0].key}  # type: ignore[attr-defined]


def test_a_step_without_any_readable_image_is_an_empty_list(examples: tuple[Example, ...]) -> None:
    for example in examples:
        example.path.unlink()
    told: list[Problem] = []
    with Loader(examples, OPTIONS, on_problem=told.append) as loader:
        groups = list(loader.groups(0))
        with pytest.raises(ImagesLostError, match=re.escape(str(examples[0].path.parent))):
            loader.require_readable()
    plan = plan_epoch(examples, seed=555, epoch=0, batch_size=3, grad_accum=2)
    assert groups == [[]] * len(plan)
    assert len(told) == len(examples)


def test_once_all_images_are_gone_no_incomplete_step_is_trained(examples: tuple[Example, ...]) -> None:
    *lost, left = examples[::4]  # of one size
    for example in lost:
        example.path.write_bytes(b"")
    with Loader([*lost, left], replace(OPTIONS, batch_size=len(lost) + 1), on_problem=lambda problem: None) as loader:
        (group,) = loader.groups(0)
        assert len(group[0]) == 1
        loader.require_readable()  # one that can be read is enough
        left.path.unlink()
        with pytest.raises(ImagesLostError, match=f"None of the {len(lost) + 1} images in "):
            loader.require_readable()


def test_one_readable_image_of_many_is_enough(examples: tuple[Example, ...]) -> None:
    for example in examples[:-1]:
        example.path.write_bytes(b"")
    require_readable(examples)


def test_an_image_replaced_by_one_of_another_shape_is_cropped_again(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cat.png")
    examples = scan([tmp_path], ScanOptions(resolution=64)).examples
    Image.new("RGB", (300, 40), "blue").save(tmp_path / "cat.png")
    told: list[Finding] = []
    with Loader(examples, OPTIONS, on_problem=told.append) as loader:
        ((batch,),), _ = loader.groups(0), list(loader.groups(1))
    assert batch.pixels.shape == (1, 3, 64, 64)
    assert batch.pixels[0, :, 0, 0].tolist() == [0, 0, 255]
    assert [(finding.kind, finding.path) for finding in told] == [("changed", "cat.png")]


def test_a_damaged_image_shortens_its_batch_and_leaves_the_next_epoch_as_in_a_resume(
    examples: tuple[Example, ...],
) -> None:
    same_size = [example for example in examples if example.bucket == examples[0].bucket and example.multiply == 1][:4]
    options = replace(OPTIONS, grad_accum=1)
    same_size[1].path.write_bytes(b"")
    lost: dict[str, int] = {}
    with Loader(same_size, options, on_problem=lambda problem: None, lost=lost) as loader:
        assert (loader.steps_in(0), loader.steps_in(1)) == (2, 2)
        epochs = [[names(group) for group in loader.groups(epoch)] for epoch in (0, 1, 2)]
        assert lost == {same_size[1].key: 0}
        assert (loader.steps_in(0), loader.steps_in(1), loader.planned_steps_in(1)) == (2, 1, 2)
    assert [len(epoch) for epoch in epochs] == [2, 1, 1]
    assert sorted(map(len, epochs[0])) in ([0, 3], [1, 2]) and len(epochs[1][0]) == 3
    with Loader(same_size, options, on_problem=lambda problem: None, lost=dict(lost)) as resumed:
        rest = [names(group) for group in resumed.groups(0, start=1)]
        assert [rest, *([names(group) for group in resumed.groups(epoch)] for epoch in (1, 2))] == [
            epochs[0][1:],
            *epochs[1:],
        ]


def names(group: list[Batch]) -> list[str]:
    return [name for batch in group for name in batch.names]
