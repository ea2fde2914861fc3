"""The documentation against the program: its links, files, command lines, and the labels of the page that it quotes."""

import re
import shlex
from pathlib import Path

import pytest

from ed2.settings import cli
from ed2.settings.files import PROGRAM_DIR
from tests.error_texts import ErrorText, error_texts

PAGES = sorted([*PROGRAM_DIR.glob("*.md"), *PROGRAM_DIR.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
COMMAND = re.compile(r"\./launch\.sh (?:train|check)([^`)\n]*)")
LABEL = re.compile(r"(?<![*\w\\])\*([A-Z][^*`|]{2,40}?)\.?\*(?!\*)")
TELLING = 9
"""Letters of a message from which on a part of it is enough to find it by."""
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


@pytest.mark.parametrize(
    "name", ["README.md", "docs/page.md", "docs/memory.md", "docs/reliability.md", "docs/first-training.md"]
)
def test_every_label_quoted_in_the_docs_is_on_the_page(name: str) -> None:
    files = [*PROGRAM_DIR.glob("ed2/ui/*.py"), *PROGRAM_DIR.glob("ed2/ui/*.js")]
    files += [PROGRAM_DIR / "ed2/settings/schema.py", PROGRAM_DIR / "ed2/app/adviser.py"]
    shown = "\n".join(path.read_text(encoding="utf-8") for path in files)
    labels = LABEL.findall((PROGRAM_DIR / name).read_text(encoding="utf-8"))
    assert labels
    for label in labels:
        assert " ".join(label.split()) in shown, label


def troubleshooting() -> str:
    return (PROGRAM_DIR / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def quoted_messages() -> list[str]:
    """The messages that the page on trouble has entries for, with `…` for what is filled in."""
    return re.findall(r"^> - (.+)$", troubleshooting(), re.MULTILINE)


def is_of(error: ErrorText, message: str) -> bool:
    """Whether a quoted message is this error; one that is too short to tell errors apart is the whole of it."""
    return message in error.text if len(message) >= TELLING else message == error.text.rstrip(".:")


def test_every_error_of_the_program_has_an_entry_in_the_troubleshooting_page() -> None:
    quoted, errors = quoted_messages(), error_texts()
    assert len(errors) > 300
    missing = {error.text: error.place for error in errors if not any(is_of(error, message) for message in quoted)}
    assert not missing, "add an entry to docs/troubleshooting.md, or a line to that of its kind"


def test_every_message_in_the_troubleshooting_page_is_one_of_the_program() -> None:
    errors = {error.text for error in error_texts()}
    files = [path.read_text(encoding="utf-8") for path in PROGRAM_DIR.glob("ed2/**/*.py")]
    source = re.sub(r'"\s+f?"', "", "\n".join(files))
    unknown = [message for message in quoted_messages() if not any(message in text for text in errors)]
    assert [message for message in unknown if message not in source] == []


def test_every_entry_of_the_troubleshooting_page_says_more_than_the_message() -> None:
    entries = re.findall(r"((?:^> - .+\n)+)\n?([^\n>#][^>#]*)?", troubleshooting(), re.MULTILINE)
    assert len(entries) > 60
    assert [messages for messages, advice in entries if len(advice.split()) < 8] == []


@pytest.mark.parametrize(
    "symptom",
    [
        "Nothing is learned", "Burnt", "forgot everything else", "Grey, black, or noise", "The file in a web UI",
        "Out of memory", "every step takes ten times as long", "Speed", "It cannot be reached", "proxy",
    ],
)  # fmt: skip
def test_every_symptom_is_a_heading_of_the_troubleshooting_page(symptom: str) -> None:
    headings = re.findall(r"^#+ (.+)$", troubleshooting(), re.MULTILINE)
    assert any(symptom in heading for heading in headings)
