"""What the linters do not count: branches, sizes, and a few things that have no place in `ed2`.

Fails on functions of `ed2` with more than 12 branches, hidden ones included: a boolean operator, a ternary and a
comprehension are branches too. Fails as well if two types of `ed2` share a name. Warns about functions over 60 lines
and files over 400, which do several things at once.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_BRANCHES = 12
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
LONG_FILES = {Path("ed2/settings/schema.py")}  # one line or two for each of about a hundred settings
ONE_BRANCH = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.match_case, ast.Assert)


def python_files() -> list[Path]:
    """The program's own Python files, relative to its folder."""
    patterns = ("*.py", "ed2/**/*.py", "scripts/*", "tests/**/*.py")
    return sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_branches(function: ast.AST) -> int:
    """1, and one more for each place where the function forks or repeats, in a statement or an expression."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ONE_BRANCH):
            count += 1
    return count


def too_long(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    """A line for the file if it is too long, and one for each function that is."""
    num_lines = text.count("\n")
    if num_lines > MAX_FILE_LINES and path not in LONG_FILES:
        yield f"{path}: {num_lines} lines, more than {MAX_FILE_LINES}"
    for function in functions(tree):
        num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if num_lines > MAX_FUNCTION_LINES:
            yield f"{path}:{function.lineno}: {function.name} has {num_lines} lines, more than {MAX_FUNCTION_LINES}"


def too_branched(path: Path, tree: ast.Module) -> Iterator[str]:
    """A line for each function with too many branches."""
    for function in functions(tree):
        count = num_branches(function)
        if count > MAX_BRANCHES:
            yield f"{path}:{function.lineno}: {function.name} has {count} branches, more than {MAX_BRANCHES}"


def private_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """A line for each private name that is imported from another module of the program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ed2"):
            for name in node.names:
                if name.name.startswith("_"):
                    yield f"{path}:{node.lineno}: imports the private name {name.name}"


def shared_names(types: dict[str, list[str]]) -> Iterator[str]:
    """A line for each name that several public types have, from the places of each."""
    for name, places in types.items():
        if len(places) > 1 and not name.startswith("_"):
            yield f"{places[1]}: {name} is also the name of a type at {places[0]}"


def hand_formatted(path: Path, text: str) -> Iterator[str]:
    """A line for each place that the formatter is told to leave alone."""
    for number, line in enumerate(text.splitlines(), start=1):
        if "fmt: skip" in line or "fmt: off" in line:
            yield f"{path}:{number}: is left out of formatting"


def main() -> int:
    """Print what is wrong and what is only long; 1 if anything is wrong."""
    problems: list[str] = []
    warnings: list[str] = []
    types: dict[str, list[str]] = {}
    for path in python_files():
        text = (ROOT / path).read_text(encoding="utf-8")
        tree = ast.parse(text)
        warnings += too_long(path, text, tree)
        if path.parts[0] == "ed2":
            problems += too_branched(path, tree)
            problems += private_imports(path, tree)
            problems += hand_formatted(path, text)
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    types.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    problems += shared_names(types)
    for line in warnings:
        print(f"warning: {line}")
    for line in problems or ["sizes and branches are fine"]:
        print(line)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
