"""Sources of the standard library, changed before they are compiled for the guest."""

from __future__ import annotations

import ast

from scripts.image.errors import BuildError

_ENUMERATIONS = ("IntEnum", "IntFlag")


def with_plain_numbers(source: str, what: str) -> str:
    """Return a module that has numbers instead of enumerations made of its own constants.

    `IntEnum._convert_("Name", …)` looks at all names of the module and makes a class of those that
    fit, so that they have a nicer repr; for `socket` that is a tenth of the agent's imports. Here
    `Name` becomes `int`, and the constants stay what the C module has. Line numbers stay, too.

    Args:
        source: The module's text.
        what: For messages.

    Raises:
        BuildError: There is nothing of the kind, or it looks different.
    """
    lines = source.splitlines(keepends=True)
    found = False
    for statement in ast.parse(source).body:
        name = _converted(statement)
        if name is None:
            continue
        found = True
        start, end = statement.lineno - 1, statement.end_lineno or statement.lineno
        lines[start:end] = [f"{name} = int\n", *["\n"] * (end - start - 1)]
    if not found:
        raise BuildError(f"{what}: no enumerations are made of constants there any more")
    return "".join(lines)


_ASKS_INSPECT = "inspect.iscoroutinefunction(func)"
_LOOKS_ITSELF = "_looks_like_coroutine_function(func)"
_LOOK = """

def _looks_like_coroutine_function(func):
    import functools

    while isinstance(func, types.MethodType):
        func = func.__func__
    code = getattr(functools._unwrap_partial(func), "__code__", None)
    return isinstance(code, types.CodeType) and bool(code.co_flags & 0x80)
"""


def without_inspect(source: str, what: str) -> str:
    """Return `asyncio.coroutines` that looks at a function itself to see what it is.

    The original asks `inspect`, whose code would run for this alone, when a handler of a signal is
    added: an eighth of the agent's start. Line numbers stay.

    Args:
        source: The module's text.
        what: For messages.

    Raises:
        BuildError: It does not ask `inspect`, or not only there.
    """
    if source.count("inspect.") != 1 or source.count(_ASKS_INSPECT) != 1:
        raise BuildError(f"{what}: inspect is not asked for coroutine functions any more")
    return source.replace(_ASKS_INSPECT, _LOOKS_ITSELF) + _LOOK


def with_literals(source: str, what: str) -> str:
    """Return a module of asyncio that has constants of other modules as literals.

    It takes them when it is imported, and for them alone those modules would have to run. Line
    numbers stay.

    Args:
        source: The module's text.
        what: For messages.

    Raises:
        BuildError: It takes none of them.
    """
    rewritten = source
    for name, literal in LITERALS.items():
        rewritten = rewritten.replace(f"={name}", f"={literal}").replace(
            f"= {name}", f"= {literal}"
        )
    if rewritten == source:
        raise BuildError(f"{what}: no constants are taken from other modules any more")
    return rewritten


LITERALS = {
    "subprocess.PIPE": "-1",
    "concurrent.futures.FIRST_COMPLETED": "'FIRST_COMPLETED'",
    "concurrent.futures.FIRST_EXCEPTION": "'FIRST_EXCEPTION'",
    "concurrent.futures.ALL_COMPLETED": "'ALL_COMPLETED'",
}
"""Constants of the standard library, and what they are."""

REWRITTEN = {
    "asyncio.base_events": with_literals,
    "asyncio.coroutines": without_inspect,
    "asyncio.events": with_literals,
    "asyncio.tasks": with_literals,
    "socket": with_plain_numbers,
}
"""What changes the source of a module, by name."""


def _converted(statement: ast.stmt) -> str | None:
    """The name of the enumeration that a statement makes of constants, if it does."""
    match statement:
        case ast.Expr(
            ast.Call(
                ast.Attribute(ast.Name(enumeration), "_convert_"),
                [ast.Constant(str(name)), *_],
            )
        ) if enumeration in _ENUMERATIONS:
            return name
    return None
