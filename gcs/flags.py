"""Command line flags with the syntax of Go's ``flag`` package (spec 7.3).

``-x`` and ``--x`` are the same; a value follows as ``-x=v`` or ``-x v``, for booleans only as
``-x=v``.  The first argument that is no flag, or ``--``, ends the flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(Exception):
    """A command line that can't be understood; the message says why."""


class HelpRequested(Exception):  # noqa: N818
    """The command line asks for the usage text."""


class Flag:
    """One flag.

    Args:
        name: Without dashes.
        default: Value when the flag is not given; its type decides the syntax (bool, int, str).
        usage: One line of explanation.
        check: Called with a given value; raises ValueError when it is not acceptable.
        hidden: Leave it out of the usage text: it is of no use to anybody but tests.
    """

    __slots__ = ("check", "default", "hidden", "name", "usage")

    def __init__(
        self,
        name: str,
        default: bool | int | str,
        usage: str,
        check: Callable[[Any], None] | None = None,
        *,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.default = default
        self.usage = usage
        self.check = check
        self.hidden = hidden

    @property
    def is_boolean(self) -> bool:
        """Whether the flag needs no value."""
        return isinstance(self.default, bool)

    def convert(self, text: str) -> bool | int | str:
        """Return the value a text stands for.

        Raises:
            FlagError: The text does not fit the type of the flag, or was refused.
        """
        try:
            value = self._convert(text)
            if self.check is not None:
                self.check(value)
        except ValueError as error:
            raise FlagError(f'invalid value "{text}" for flag -{self.name}: {error}') from None
        return value

    def _convert(self, text: str) -> bool | int | str:
        if isinstance(self.default, bool):
            if text in _TRUE or text in _FALSE:
                return text in _TRUE
            raise ValueError("not a boolean")
        if isinstance(self.default, int):
            return _unsigned(text)
        return text


def parse(flags: Iterable[Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Parse a command line.

    Returns:
        The value of each flag by its name, and the arguments behind the flags.

    Raises:
        FlagError: Unknown flag, missing or malformed value.
        HelpRequested: ``-h`` or ``-help``.
    """
    table = {flag.name: flag for flag in flags}
    values: dict[str, Any] = {flag.name: flag.default for flag in table.values()}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if len(argument) < 2 or argument[0] != "-":
            break
        position += 1
        if argument == "--":
            break
        name, equals, text = _split(argument)
        flag = table.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequested
            raise FlagError(f"flag provided but not defined: -{name}")
        if not equals:
            if flag.is_boolean:
                text = "true"
            elif position < len(arguments):
                text = arguments[position]
                position += 1
            else:
                raise FlagError(f"flag needs an argument: -{name}")
        values[name] = flag.convert(text)
    return values, list(arguments[position:])


def usage(program: str, flags: Iterable[Flag]) -> str:
    """Return the explanation of all flags, in alphabetical order."""
    lines = [f"Usage of {program}:"]
    shown = (flag for flag in flags if not flag.hidden)
    for flag in sorted(shown, key=lambda flag: flag.name):
        kind = {bool: "", int: " uint"}.get(type(flag.default), " string")
        default = f' (default "{flag.default}")' if isinstance(flag.default, str) else ""
        if not isinstance(flag.default, str):
            default = f" (default {str(flag.default).lower()})"
        lines.append(f"  -{flag.name}{kind}")
        lines.append(f"    \t{flag.usage}{default if flag.default else ''}")
    return "\n".join(lines) + "\n"


def _split(argument: str) -> tuple[str, str, str]:
    name, equals, text = argument[2 if argument[1] == "-" else 1 :].partition("=")
    if not name or name[0] == "-":
        raise FlagError(f"bad flag syntax: {argument}")
    return name, equals, text


def _unsigned(text: str) -> int:
    """Return a number as Go reads it: decimal, or with a prefix 0x, 0o, 0b or 0."""
    digits = text
    if len(text) > 1 and text[0] == "0" and text[1] in "01234567_":
        digits = "0o" + text[1:]
    try:
        value = int(digits, 0)
    except ValueError:
        raise ValueError("not a number") from None
    if not 0 <= value < 1 << 64 or text[0] in "+-" or text.strip() != text:
        raise ValueError("not an unsigned 64-bit number")
    return value
