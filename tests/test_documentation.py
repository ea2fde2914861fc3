"""The documentation against the program: its links, files, command lines, and the labels of the page that it quotes."""

import re
import shlex
from pathlib import Path

import pytest

from ed2.settings import cli
from ed2.settings.files import PROGRAM_DIR

PAGES = sorted([*PROGRAM_DIR.glob("*.md"), *PROGRAM_DIR.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
COMMAND = re.compile(r"\./launch\.sh (?:train|check)([^`)\n]*)")
LABEL = re.compile(r"(?<![*\w\\])\*([A-Z][^*`|]{2,40}?)\.?\*(?!\*)")
SOURCE = re.compile(r"`((?:ed2|scripts|tests|presets|docs)/[\w./-]+)`")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_docs_works(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_in_the_docs_exists(page: Path) -> None:
    if page.name != "CHANGELOG.md":  # which also names files that have gone
        for named in SOURCE.findall(page.read_text(encoding="utf-8")):
            assert (PROGRAM_DIR / named).exists(), named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_in_the_docs_is_valid(page: Path) -> None:
    for arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert cli.parse(shlex.split(arguments)).problems == (), arguments


@pytest.mark.parametrize("name", ["README.md", "docs/page.md", "docs/memory.md", "docs/reliability.md"])
def test_every_label_quoted_in_the_docs_is_on_the_page(name: str) -> None:
    files = [*PROGRAM_DIR.glob("ed2/ui/*.py"), *PROGRAM_DIR.glob("ed2/ui/*.js"), PROGRAM_DIR / "ed2/settings/schema.py"]
    shown = "\n".join(path.read_text(encoding="utf-8") for path in files)
    labels = LABEL.findall((PROGRAM_DIR / name).read_text(encoding="utf-8"))
    assert labels
    for label in labels:
        assert " ".join(label.split()) in shown, label


def test_every_message_in_the_troubleshooting_page_is_one_of_the_program() -> None:
    text = (PROGRAM_DIR / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^> (.+)$", text, re.MULTILINE)
    source = "\n".join(path.read_text(encoding="utf-8") for path in PROGRAM_DIR.glob("ed2/**/*.py"))
    assert quoted
    assert [message for message in quoted if message not in re.sub(r'"\s+f?"', "", source)] == []
