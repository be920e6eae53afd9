"""Which modules the guest imports: names from the sources, and what importing them pulls in."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_COMPUTED = {"__import__", "import_module"}
"""Functions that import what they are told."""


_NOT_FOUND = {"ImportError", "ModuleNotFoundError"}


def modules_of(package: Path) -> dict[str, Path]:
    """Return the modules of a package directory by dotted name, the package itself included."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


class Imported(NamedTuple):
    """That something is imported."""

    place: str
    """Where, first: path and line."""
    optional: bool
    """Whether the source can do without, each time: it catches the error."""


def imported_names(sources: dict[str, Path]) -> dict[str, Imported]:
    """Return everything sources import anywhere, also inside functions.

    `from a import b` counts as `a` and `a.b`, since `b` may be a module. Imports for the type
    checker alone do not count.

    Raises:
        BuildError: a source file does not parse, or imports a module whose name it computes.
    """
    names: dict[str, Imported] = {}
    for module, path in sources.items():
        try:
            parsed = ast.parse(path.read_bytes(), path)
        except SyntaxError as error:
            raise BuildError(f"{path}:{error.lineno}: {error.msg}") from error
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for call in ast.walk(parsed):
            if isinstance(call, ast.Call) and _called(call) in _COMPUTED:
                text = "imports a module by name, so nobody can tell whether the image has it"
                raise BuildError(f"{path}:{call.lineno}: {_called(call)}() {text}")
        optional = _optional(parsed)
        for statement in _imports(parsed.body):
            for name in _names(statement, package):
                found = Imported(f"{path}:{statement.lineno}", statement in optional)
                if name not in names or (names[name].optional and not found.optional):
                    names[name] = found
    return names


def _optional(parsed: ast.Module) -> set[ast.AST]:
    """Return what stands in a `try` that catches the failure of an import."""
    found: set[ast.AST] = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Try):
            caught = (name.id for each in node.handlers for name in _nodes(each.type))
            if _NOT_FOUND & set(caught):
                found.update(inner for each in node.body for inner in ast.walk(each))
    return found


def _nodes(expression: ast.expr | None) -> list[ast.Name]:
    if expression is None:
        return []
    return [each for each in ast.walk(expression) if isinstance(each, ast.Name)]


def _imports(body: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.orelse)
        else:
            yield from _imports(ast.iter_child_nodes(node))


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _names(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    base = statement.module or ""
    if statement.level:
        parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = ".".join((*parents, base) if base else parents)
    yield base
    yield from (f"{base}.{alias.name}" for alias in statement.names if alias.name != "*")
