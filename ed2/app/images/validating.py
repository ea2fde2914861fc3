"""The images that a run validates with, as the settings say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ed2.app.images.scanning import scan_dataset
from ed2.curve_names import LOSS_STABILIZED, LOSS_VAL
from ed2.data.apart import chosen, measured
from ed2.data.example import Dataset, Example
from ed2.errors import DatasetError
from ed2.settings.schema import Settings


@dataclass(frozen=True)
class SetApart:
    """What is trained on, and what is measured.

    Attributes:
        training: the dataset without the images that are kept for validation.
        curves: the images of each curve, by TensorBoard tag.
        keys: of the images kept for validation.
        notes: what to tell of it.
    """

    training: Dataset
    curves: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def set_apart(settings: Settings, dataset: Dataset, *, should_stop: Callable[[], bool] | None = None) -> SetApart:
    """Choose the images to validate with, and read those that have a folder of their own.

    Raises:
        DatasetError: such a folder holds nothing that can be used.
        StopRequested: `should_stop` said so.
    """
    wanted = settings.validation
    curves: dict[str, tuple[Example, ...]] = {}
    notes: list[str] = []
    keys: frozenset[str] = frozenset()
    if wanted.val_split_mode == "automatic":
        keys = chosen(dataset.examples, wanted.auto_split_proportion, wanted.val_seed)
        curves[LOSS_VAL] = tuple(example for example in dataset.examples if example.key in keys)
        notes.append(_split_note(len(keys), len(dataset.examples)))
    training = replace(dataset, examples=tuple(e for e in dataset.examples if e.key not in keys))
    for tag, folder in _folders(settings).items():
        found = _read(settings.replaced(data_root=(folder,)), should_stop)
        curves[tag] = found.examples
        notes += [f"Left out of {tag}: {problem}" for problem in found.problems[:3]]
    if wanted.stabilize_training_loss:
        again = chosen(training.examples, wanted.stabilize_split_proportion, wanted.val_seed)
        curves[LOSS_STABILIZED] = tuple(example for example in training.examples if example.key in again)
    return SetApart(training, {tag: measured(found) for tag, found in curves.items() if found}, keys, tuple(notes))


def _read(settings: Settings, should_stop: Callable[[], bool] | None) -> Dataset:
    """The images of a folder to validate with. Raises DatasetError, which says that it is one."""
    try:
        return scan_dataset(settings, should_stop=should_stop)
    except DatasetError as error:
        raise DatasetError("There is no image to validate with.", error.problems) from None


def _folders(settings: Settings) -> dict[str, str]:
    wanted = settings.validation
    folders = {LOSS_VAL: wanted.manual_data_root} if wanted.val_split_mode == "manual" else {}
    for text in wanted.extra_manual_datasets:
        name, _, folder = text.partition("=")
        folders[f"loss/{name}"] = folder
    return {tag: str(Path(folder)) for tag, folder in folders.items() if folder}


def _split_note(count: int, total: int) -> str:
    if not count:
        return "There is only one image, so none is kept for validation."
    return f"{count} of {total} images are kept for validation and not trained on."
