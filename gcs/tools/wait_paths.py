"""`wait-paths --paths a,b [--timeout seconds]`: wait for files to appear (spec 7.7)."""

from __future__ import annotations

import os
import sys
import time

from gcs.flags import Flag, FlagError, HelpRequested, parse, usage
from gcs.tools import say

PROGRAM = "wait-paths"
INTERVAL = 0.01

FLAGS = (
    Flag("paths", "", "comma-separated list of paths that are to appear"),
    Flag("p", "", "the same"),
    Flag("timeout", 30, "seconds to wait for all of them"),
    Flag("t", 30, "the same"),
)
_SHORT = {"-p": "--paths", "-t": "--timeout"}


def main(argv: list[str] | None = None) -> int:
    """Wait; returns the exit status, 0 when everything is there, 1 otherwise.

    argv: without the program's name; by default that of the process.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        values, _ = parse(FLAGS, [_long(argument) for argument in arguments])
        if not values["paths"]:
            raise FlagError('"paths" is required, and cannot be empty')
        wait_for(values["paths"].split(","), values["timeout"])
    except HelpRequested:
        sys.stdout.write(usage(PROGRAM, FLAGS))
        return 0
    except (FlagError, TimeoutError) as error:
        say.entry("fatal", str(error))
    except (OSError, ValueError) as error:
        say.entry("fatal", say.error_text(error) if isinstance(error, OSError) else str(error))
    else:
        return 0
    return 1


def wait_for(paths: list[str], seconds: float) -> None:
    """Wait until all paths exist, links followed.

    seconds: for all of them together; each is looked for once in any case.

    Raises TimeoutError, OSError when a path can't be looked up, ValueError when it can be none.
    """
    deadline = time.monotonic() + seconds
    for path in paths:
        while not _exists(path):
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f'timeout while waiting for path "{path}" to appear: '
                    f"it does not exist after {seconds:g} s"
                )
            time.sleep(INTERVAL)


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _long(argument: str) -> str:
    """Turn the short form of a flag into the long one, of which the last counts."""
    dashes = argument.startswith("--")
    name, equals, value = argument[1 if dashes else 0 :].partition("=")
    return _SHORT.get(name, name if not dashes else f"-{name}") + equals + value
