"""Texts about settings in the page's own words."""

import re

from ed2.settings.fields import fields, label_of

_OPTION = re.compile(r"(?<![^\s(“\"'])--([a-z][a-z0-9_]*)\b(?![-=])")
_ELSEWHERE = {
    "check": "Check in the tab Dataset", "suggest": "Suggest in the tab Settings",
    "test_resume": "Test resume in the tab Resume", "vram_gb": "“Memory of the card”",
    "config": "the settings file",
}  # fmt: skip


def on_page(text: str) -> str:
    """The text with options of the command line under the names that the page has for them."""
    return _OPTION.sub(lambda found: _ELSEWHERE.get(found[1]) or _in_form(found), text)


def _in_form(found: re.Match[str]) -> str:
    return f"“{label_of(found[1])}”" if found[1] in fields() else found[0]
