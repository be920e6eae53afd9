"""`/bin/gcstools`: one program with several names (spec 7.4)."""

from __future__ import annotations

import os
import sys

from gcs.tools import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN_STATUS = 127


def _generic_hook(arguments: list[str]) -> int:
    from gcs.tools.generichook import main

    return main(arguments)


def _install_drivers(arguments: list[str]) -> int:
    from gcs.tools.install_drivers import main

    return main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "generichook": _generic_hook,
    "install-drivers": _install_drivers,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command whose name the program was called by.

    argv: with the name; by default that of the process.

    Returns the exit status: 127 for a name that is no command, after a list of those that are.
    """
    name, *arguments = sys.argv if argv is None else argv
    command = COMMANDS.get(os.path.basename(name))
    if command is None:
        say.line(f"unknown command: {os.path.basename(name)}")
        say.line("known commands:\n\t" + "\n\t".join(sorted(COMMANDS)))
        return UNKNOWN_STATUS
    return command(arguments)
