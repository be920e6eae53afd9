"""Options of commands that start a process."""

import argparse
import os
import re
import sys

from gcs.protocol.errors import RemoteError
from uvm.cli import terminal
from uvm.errors import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, UvmError
from uvm.spec import ProcessOptions, User

DEFAULT_COMMAND = ("/bin/sh",)


def process_options(
    arguments: argparse.Namespace, command: list[str], user: User | None = None
) -> ProcessOptions:
    """Return the process that options describe.

    Raises:
        UvmError: A terminal is asked for and stdin is none, or an option makes no sense.
    """
    if arguments.tty and arguments.interactive and not os.isatty(0):
        raise UvmError("-t needs a terminal, and standard input is none: leave -t out")
    if arguments.workdir is not None and not arguments.workdir.startswith("/"):
        raise UvmError(f"the working directory {arguments.workdir!r} is not an absolute path")
    return ProcessOptions(
        arguments=tuple(command) or DEFAULT_COMMAND,
        environment=tuple(_environment(arguments.env)),
        working_directory=arguments.workdir or "/",
        user=user or User(),
        terminal_size=terminal.size() if arguments.tty else None,
    )


def report(error: Exception) -> int:
    """Print an error and return the exit status that goes with it."""
    sys.stderr.write(f"uvm: {error}\n")
    if isinstance(error, RemoteError):
        return remote_status(error.message)
    return EXIT_FAILURE


def remote_status(message: str) -> int:
    """Return the exit status for an error of the agent, by what runc or the kernel said."""
    if re.search(r"not found in \$?path|no such file or directory", message, re.IGNORECASE):
        return EXIT_NOT_FOUND
    if re.search(r"permission denied|exec format error", message, re.IGNORECASE):
        return EXIT_NOT_EXECUTABLE
    return EXIT_FAILURE


def _environment(assignments: list[str]) -> list[str]:
    """Complete assignments: a name alone takes its value from here, or is left out."""
    result = []
    for assignment in assignments:
        if "=" in assignment:
            result.append(assignment)
        elif assignment in os.environ:
            result.append(f"{assignment}={os.environ[assignment]}")
    return result
