"""Short options in the manner of POSIX getopt, stopping at the first operand.

The standard library's `getopt` would import `gettext` and with it `re`.
"""

from __future__ import annotations


class UsageError(ValueError):
    """The command line is wrong; the text says how."""


def parse_options(arguments: list[str], letters: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Split a command line into options and the rest.

    arguments: the command line without the program's name.
    letters: the known options, each followed by ":" when it takes a value.

    Values may be attached (`-e1`), options without value may be joined (`-we1`); `--` ends the
    options.  Returns ([(letter, value or "")...], rest).  Raises UsageError for an unknown option
    and for a missing value.
    """
    options: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest and len(rest[0]) > 1 and rest[0][0] == "-":
        group = rest.pop(0)[1:]
        if group == "-":
            break
        while group:
            letter, group = group[0], group[1:]
            if letter == ":" or letter not in letters:
                raise UsageError(f"unknown option -{letter}")
            value = ""
            if letters[letters.index(letter) + 1 :].startswith(":"):
                if not group and not rest:
                    raise UsageError(f"option -{letter} needs a value")
                value, group = group or rest.pop(0), ""
            options.append((letter, value))
    return options, rest


def parse_port(text: str) -> int:
    """A vsock port, decimal, 1 to 4294967294; UsageError for anything else."""
    # The highest number is VMADDR_PORT_ANY, which cannot be dialled.
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 0xFFFFFFFF):
        raise UsageError(f"invalid port {text!r}")
    return int(text)
