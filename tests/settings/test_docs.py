"""What the pages on settings say, against the settings that there are."""

import re

import pytest

from ed2.app.caching import command as cache_command
from ed2.settings import cli
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.legacy import LEGACY_FLAGS

TOPICS = (
    "Logging", "Project name", "Mixed precision", "8-bit Adam", "Epochs", "Resolution", "Save interval", "Resuming",
    "Learning rate", "Batch size", "Schedule", "Sampling", "Gradient checkpointing", "Accumulation",
)  # fmt: skip
FLAG = re.compile(r"--([a-z][a-z0-9_]*(?:-[a-z_]+)?)")


def page(name: str) -> str:
    return (PROGRAM_DIR / "docs" / name).read_text(encoding="utf-8")


def test_every_topic_of_tweaking_has_a_short_section() -> None:
    sections = dict(re.findall(r"^## ([^\n]+)\n\n(.+?)(?=\n## |\Z)", page("tweaking.md"), re.MULTILINE | re.DOTALL))
    assert [title for title in sections if title in TOPICS] == list(TOPICS)
    assert all(0 < len(sections[topic].split()) < 200 for topic in TOPICS)


@pytest.mark.parametrize("name", ["tweaking.md", "data.md", "from-everydream2.md"])
def test_every_flag_named_in_the_docs_exists(name: str) -> None:
    known = {*FLAG.findall(cli.help_text()), *cache_command.COMMAND.flags, *LEGACY_FLAGS}
    named = {flag.removeprefix("no-") for flag in FLAG.findall(page(name))}
    assert named and named <= known


def test_the_samplers_in_the_docs_are_the_existing_ones() -> None:
    from ed2.registry import SAMPLERS

    listed = re.search(r"Schedulers: (.+?)\.\n", page("tweaking.md"), re.DOTALL)
    assert listed and re.split(r",\s+", listed[1]) == list(SAMPLERS)
