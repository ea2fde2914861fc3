"""Metadata of single files by the SAI Model Spec 1.0.1, which web UIs and model managers show and search.

Needs no torch. Source: https://github.com/Stability-AI/ModelSpec
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ed2.models.families.facts import FACTS

VERSION = "1.0.1"
PREFIX = "modelspec."
HASH_KEY = f"{PREFIX}hash_sha256"
"""Metadata key for the hash of the bytes of all tensors; whoever writes the file fills in its value."""
NO_HASH = f"0x{'0' * 64}"
"""As long as any hash: it stands in a header until the hash is known."""
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""What a model predicts in the words of this spec, by diffusers'."""
OF_THE_FILE = ("sai_model_spec", "architecture", "implementation", "prediction_type", "predict_key")
"""Entries that depend on what is written; all others describe the model, however it is stored."""


@dataclass(frozen=True)
class ModelSpec:
    """What a single file says of its model besides what its tensors are; entries that are empty are left out.

    Attributes:
        title: for people.
        resolution: of its training images, such as `512x512`.
        date: when it was made, ISO 8601.
        trigger_phrase: what a prompt needs to begin with.
    """

    title: str
    resolution: str = ""
    date: str = ""
    trigger_phrase: str = ""
    author: str = ""
    license: str = ""

    def metadata(self, family: str, prediction_type: str) -> dict[str, str]:
        """The metadata of a file of this family; the hash is still to be filled in."""
        own = {f"{PREFIX}{item.name}": getattr(self, item.name) for item in fields(self)}
        return {**written_metadata(family, prediction_type), **{name: text for name, text in own.items() if text}}


def written_metadata(family: str, prediction_type: str) -> dict[str, str]:
    """The entries that depend on what is written: version, architecture, layout, prediction, and room for the hash."""
    facts = FACTS[family]
    values = {
        "sai_model_spec": VERSION,
        "architecture": facts.architecture_of(prediction_type),
        "implementation": facts.implementation,
        "prediction_type": PREDICTIONS.get(prediction_type, ""),
    }
    return {HASH_KEY: NO_HASH} | {f"{PREFIX}{name}": text for name, text in values.items() if text}


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of a file says of its model, for another file of that model."""
    of_the_file = {HASH_KEY, *(f"{PREFIX}{name}" for name in OF_THE_FILE)}
    return {name: text for name, text in metadata.items() if name.startswith(PREFIX) and name not in of_the_file}
