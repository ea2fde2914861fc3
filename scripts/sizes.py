"""Fails on functions over 40 lines and files over 300: what is that long does several things."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 300
LONG_FILES = {Path("ed2/settings/schema.py")}  # one line or two for each of about a hundred settings


def python_files() -> list[Path]:
    """The program's own Python files, from the program's folder."""
    patterns = ("*.py", "ed2/**/*.py", "scripts/*", "tests/**/*.py")
    return sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())


def too_long(path: Path) -> Iterator[str]:
    """What is too long in a file, a line each."""
    text = (ROOT / path).read_text(encoding="utf-8")
    num_lines = text.count("\n")
    if num_lines > MAX_FILE_LINES and path not in LONG_FILES:
        yield f"{path}: {num_lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {num_lines} lines, at most {MAX_FUNCTION_LINES}"


if __name__ == "__main__":
    problems = [line for path in python_files() for line in too_long(path)]
    print(*problems or ["sizes are fine"], sep="\n")
    sys.exit(bool(problems))
