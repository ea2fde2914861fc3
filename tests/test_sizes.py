"""What scripts/sizes.py counts."""

import ast
from pathlib import Path

from scripts.sizes import hand_formatted, num_branches, private_imports, shared_names, too_branched, too_long

SIX = """
def choose(values, default):
    assert values
    for value in values:
        if value and value > 0 or default:
            return value
    return default
"""
FIVE_IN_ONE_LINE = """
def choose(values, default):
    return next((v for v in values if v and v > 0), 1 if default else 2)
"""


def test_branches_in_expressions_count_like_those_in_statements() -> None:
    assert num_branches(ast.parse("def plain(): pass")) == 1
    assert num_branches(ast.parse(SIX)) == 6
    assert num_branches(ast.parse(FIVE_IN_ONE_LINE)) == 5


def test_a_function_with_thirteen_branches_is_named() -> None:
    source = "def many(x):\n" + "".join(f"    if x == {number}:\n        return\n" for number in range(12))
    assert list(too_branched(Path("ed2/x.py"), ast.parse(source))) == [
        "ed2/x.py:1: many has 13 branches, more than 12",
    ]
    fewer = source.rpartition("    if")[0]
    assert list(too_branched(Path("ed2/x.py"), ast.parse(fewer))) == []


def test_long_functions_and_files_are_named() -> None:
    source = "def long():\n" + "    pass\n" * 400
    assert list(too_long(Path("ed2/x.py"), source, ast.parse(source))) == [
        "ed2/x.py: 401 lines, more than 400",
        "ed2/x.py:1: long has 401 lines, more than 60",
    ]


def test_private_imports_and_hand_formatting_are_named() -> None:
    tree = ast.parse("from ed2.data.epoch import Planner, _deal\nfrom os import _exit")
    assert list(private_imports(Path("ed2/x.py"), tree)) == ["ed2/x.py:1: imports the private name _deal"]
    assert list(hand_formatted(Path("ed2/x.py"), "x = 1\ny = 2  # fmt: " + "skip\n")) == [
        "ed2/x.py:2: is left out of formatting",
    ]


def test_two_types_of_one_name_are_named() -> None:
    types = {"Part": ["ed2/a.py:1", "ed2/b.py:2"], "Run": ["ed2/a.py:3"], "_Step": ["ed2/a.py:4", "ed2/b.py:5"]}
    assert list(shared_names(types)) == ["ed2/b.py:2: Part is also the name of a type at ed2/a.py:1"]
