"""Loaders of several processes: each decodes its own batches, and all know the same of every step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ed2.data.batch import Batch
from ed2.data.example import Example, Finding, file_stamp
from ed2.data.full_reads import FullReads
from ed2.data.images import check_image
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.data.reading import ImageIndex
from ed2.ranks.group import Follower, Leader
from tests.data.planning import plan_epoch
from tests.ranks.threads import in_each

OPTIONS = LoaderOptions(seed=555, batch_size=3, grad_accum=3, threads=1, ahead=4)
Steps = list[list[Batch]]


def loaded(
    examples: tuple[Example, ...], size: int, between: Callable[[], object] = lambda: None
) -> list[tuple[Steps, list[Finding], dict[str, int]]]:
    """The steps of three epochs, the findings and the damaged images of each rank; `between` the first two epochs."""

    def work(ranks: Leader | Follower) -> tuple[Steps, list[Finding], dict[str, int]]:
        found: list[Finding] = []
        lost: dict[str, int] = {}
        options = replace(OPTIONS, ahead=1)
        with Loader(examples, options, on_problem=found.append, lost=lost, ranks=ranks) as loader:
            steps = list(loader.groups(0))
            ranks.exchange("between", {})
            if ranks.rank == 0:
                between()
            ranks.exchange("after", {})
            steps += [*loader.groups(2), *loader.groups(3)]
        return steps, found, lost

    return in_each(size, work)


def facts(batch: Batch) -> tuple[object, ...]:
    return batch.names, batch.captions, batch.visits, batch.bucket, batch.loss_scale.tolist()


@pytest.mark.parametrize("size", [2, 3])
def test_each_image_of_a_step_is_decoded_in_one_process_and_known_to_all(
    examples: tuple[Example, ...], size: int
) -> None:
    ranks = [steps for steps, _, _ in loaded(examples, size)]
    plan = plan_epoch(examples, seed=555, epoch=0, batch_size=3, grad_accum=3)
    for number, planned in enumerate(plan):
        views = [steps[number] for steps in ranks]
        assert len({tuple(map(facts, view)).__repr__() for view in views}) == 1
        names = [name for batch in views[0] for name in batch.names]
        assert names == [examples[visit.example].name for batch in planned for visit in batch.visits]
        for batches in zip(*views, strict=True):
            assert sum(not batch.is_elsewhere for batch in batches) == 1


def test_the_pixels_are_those_of_one_process(examples: tuple[Example, ...]) -> None:
    def pixels(steps: Steps) -> dict[object, torch.Tensor]:
        found: dict[object, torch.Tensor] = {}
        for batch in (batch for step in steps for batch in step if batch.pixels is not None):
            found |= dict(zip(batch.visits, batch.pixels, strict=True))
        return found

    with Loader(examples, OPTIONS, on_problem=lambda finding: None) as loader:
        alone = pixels([*loader.groups(0), *loader.groups(2), *loader.groups(3)])
    shared: dict[object, torch.Tensor] = {}
    for steps, _, _ in loaded(examples, 3):
        shared |= pixels(steps)
    assert shared.keys() == alone.keys()
    assert all(torch.equal(shared[visit], alone[visit]) for visit in alone)


def test_an_image_that_is_lost_to_one_process_is_lost_to_all(examples: tuple[Example, ...]) -> None:
    gone, broken = examples[1], examples[4]

    def damage() -> None:
        gone.path.unlink()
        broken.path.write_bytes(b"")

    results = loaded(examples, 3, damage)
    for steps, found, lost in results:
        assert {finding.path for finding in found} == {gone.name, broken.name}
        assert len(found) == 2 and all(isinstance(finding.file, Path) for finding in found)
        assert lost == results[0][2] and set(lost) == {broken.key}
        shown = [[batch.names for batch in step] for step in steps]
        assert shown == [[batch.names for batch in step] for step in results[0][0]]
    epoch = len(plan_epoch(examples, seed=555, epoch=0, batch_size=3, grad_accum=3))
    later = {name for step in results[0][0][epoch:] for batch in step for name in batch.names}
    assert later == {example.name for example in examples} - {gone.name, broken.name}


def test_the_first_process_remembers_what_all_have_read_in_full(examples: tuple[Example, ...], tmp_path: Path) -> None:
    unread = [replace(example, digest="") for example in examples]
    unread[4].path.write_bytes(unread[4].path.read_bytes()[:-200])
    unread[4] = replace(unread[4], stamp=file_stamp(unread[4].path.stat()))
    index = tmp_path / "user" / "index.json"

    def work(ranks: Leader | Follower) -> None:
        options = replace(OPTIONS, reads=FullReads(None if ranks.rank else index))
        with Loader(unread, options, on_problem=lambda finding: None, ranks=ranks) as loader:
            list(loader.groups(0))

    in_each(3, work)
    known = ImageIndex(index)
    for example in unread:
        assert known.find(example.path, example.path.stat()) == check_image(example.path)
    assert check_image(unread[4].path).problem


def test_what_is_decoded_ahead_during_a_measurement_is_told_to_the_first_process(
    examples: tuple[Example, ...], tmp_path: Path
) -> None:
    unread = [replace(example, digest="") for example in examples]
    index = tmp_path / "user" / "index.json"

    def work(ranks: Leader | Follower) -> None:
        reads = FullReads(None if ranks.rank else index)
        for example in unread if ranks.rank else ():
            reads.decode(example, example.bucket, "white")
        options = replace(OPTIONS, reads=reads)
        with Loader(unread[:1], options, on_problem=lambda finding: None) as measured:
            list(measured.groups(0))
        with Loader(unread, options, on_problem=lambda finding: None, ranks=ranks) as loader:
            list(loader.groups(0))

    in_each(2, work)
    known = ImageIndex(index)
    assert all(known.find(example.path, example.path.stat()) for example in unread)
