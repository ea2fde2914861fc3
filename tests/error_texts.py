"""The texts of the errors in the source: what `ed2/` passes to `Problem`, to its own errors and to `Finding`.

A value that is filled in at run time is written as `…`. A text in a variable, a constant or an argument is looked up
where it is assigned or passed; one that cannot be found in the source comes from another error, or from the system.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ed2.settings.files import PROGRAM_DIR

WHAT_IS_AT = {
    **dict.fromkeys(["Problem", "Finding"], (1,)),
    **dict.fromkeys(["ProblemsError", "SettingsError", "FinishedError", "DatasetError", "ModelError"], (0,)),
    **dict.fromkeys(["LaunchError", "HeaderError", "DamagedError", "ImageError", "WrongContentError"], (0,)),
    **dict.fromkeys(["Ed2Error", "CheckpointError", "UnusableWeightsError", "LogWriteError", "TrainingError"], (0, 1)),
    **dict.fromkeys(["ImagesLostError", "DivergedError", "MemoryFullError", "UpdateFailedError"], (0, 1)),
    "RefusedError": (0, 1),
}
"""Where the text stands in the arguments: what is wrong, and for some why."""
NAMES = ("what", "why")
GAP = "…"
DEEPEST = 4


@dataclass(frozen=True)
class ErrorText:
    """One text that the program may show.

    Attributes:
        text: with `…` for what is filled in.
        place: file and line of the call.
    """

    text: str
    place: str


@dataclass(frozen=True)
class _Module:
    path: Path
    tree: ast.Module
    parents: dict[ast.AST, ast.AST]

    def scope(self, node: ast.AST) -> ast.AST:
        """The innermost function around a node, or the module."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef):
                return node
        return self.tree


@cache
def _modules() -> tuple[_Module, ...]:
    found = []
    for path in sorted((PROGRAM_DIR / "ed2").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        found.append(_Module(path, tree, parents))
    return tuple(found)


@cache
def _calls() -> dict[str, list[tuple[_Module, ast.Call]]]:
    """Every call in the source, by the name that is called."""
    found: dict[str, list[tuple[_Module, ast.Call]]] = {}
    for module in _modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                found.setdefault(_last_name(node.func), []).append((module, node))
    return found


@cache
def _constants() -> dict[str, list[tuple[_Module, ast.expr]]]:
    """What is assigned outside of functions, by name."""
    found: dict[str, list[tuple[_Module, ast.expr]]] = {}
    for module in _modules():
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, []).append((module, node.value))
    return found


@cache
def _functions() -> dict[str, list[tuple[_Module, ast.FunctionDef]]]:
    """Every function outside of classes, by name."""
    found: dict[str, list[tuple[_Module, ast.FunctionDef]]] = {}
    for module in _modules():
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append((module, node))
    return found


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def error_texts() -> list[ErrorText]:
    """Every text, once for each place."""
    found = []
    for name, positions in WHAT_IS_AT.items():
        for module, call in _calls().get(name, []):
            place = f"{module.path.relative_to(PROGRAM_DIR)}:{call.lineno}"
            for argument in _arguments(call, positions):
                found += [ErrorText(text, place) for text in _texts(module, argument, DEEPEST) if _says_something(text)]
    return sorted(set(found), key=lambda error: (error.place, error.text))


def _arguments(call: ast.Call, positions: tuple[int, ...]) -> list[ast.expr]:
    given = [call.args[position] for position in positions if position < len(call.args)]
    return given + [keyword.value for keyword in call.keywords if keyword.arg in NAMES]


def _says_something(text: str) -> bool:
    return any(len(part.split()) > 1 for part in text.split(GAP))


def _texts(module: _Module, node: ast.expr | None, depth: int) -> Iterator[str]:
    """The texts that an expression may have."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr():
            yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        case ast.BinOp(op=ast.Add()):
            yield from _sums(module, node, depth)
        case ast.IfExp() | ast.BoolOp():
            for value in node.values if isinstance(node, ast.BoolOp) else (node.body, node.orelse):
                yield from _texts(module, value, depth)
        case _:
            yield from _elsewhere(module, node, depth - 1)


def _elsewhere(module: _Module, node: ast.expr | None, depth: int) -> Iterator[str]:
    """The texts of a variable, or those that a function returns."""
    if depth < 0:
        return
    if isinstance(node, ast.Name):
        yield from _of_name(module, node, depth)
    if isinstance(node, ast.Call) and _last_name(node.func) not in WHAT_IS_AT:
        yield from _returned(module, node, depth)


def _sums(module: _Module, node: ast.BinOp, depth: int) -> Iterator[str]:
    for left in list(_texts(module, node.left, depth)) or [GAP]:
        for right in list(_texts(module, node.right, depth)) or [GAP]:
            yield left + right


def _of_name(module: _Module, name: ast.Name, depth: int) -> Iterator[str]:
    """The texts of a variable: as it is assigned, as it is passed to the function, or of a constant."""
    scope = module.scope(name)
    assigned = list(_assigned(scope, name.id))
    for value in assigned:
        yield from _texts(module, value, depth)
    if assigned:
        return
    if isinstance(scope, ast.FunctionDef) and name.id in [argument.arg for argument in scope.args.args]:
        yield from _passed(module, scope, name.id, depth)
        return
    for other, value in _constants().get(name.id, []):
        if other is module or not name.id.startswith("_"):
            yield from _texts(other, value, depth)


def _assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                yield value
            case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                yield value
            case ast.NamedExpr(target=ast.Name(id=found), value=value) if found == name:
                yield value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                yield from [value for target, value in zip(names, values, strict=True) if _last_name(target) == name]


def _passed(module: _Module, function: ast.FunctionDef, name: str, depth: int) -> Iterator[str]:
    """The texts that calls of a function give to one of its arguments."""
    names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    for caller, call in _calls().get(function.name, []):
        if caller is not module and function.name.startswith("_"):
            continue  # another function of the same name
        given = [keyword.value for keyword in call.keywords if keyword.arg == name]
        if names.index(name) < len(call.args):
            given.append(call.args[names.index(name)])
        for value in given:
            yield from _texts(caller, value, depth)


def _returned(module: _Module, call: ast.Call, depth: int) -> Iterator[str]:
    """The texts that a function of the source returns."""
    name = _last_name(call.func)
    for other, function in _functions().get(name, []):
        if other is module or not name.startswith("_"):
            for node in ast.walk(function):
                if isinstance(node, ast.Return):
                    yield from _texts(other, node.value, depth)
