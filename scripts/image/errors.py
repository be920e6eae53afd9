"""The one error of the image build, and the one way to run another program."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class BuildError(Exception):
    """The build cannot go on; the message is one line that says what failed and why."""


def warn(message: str) -> None:
    """Print one line about something the build goes on in spite of."""
    print(f"build_initrd: warning: {message}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return its standard output.

    Raises:
        BuildError: the program is missing or failed; the message holds the last line it wrote.
    """
    name = str(command[0])
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=env,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise BuildError(f"{name}: not found; run 'make setup' to install it") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        arguments = " ".join(str(word) for word in command[1:4])
        raise BuildError(f"{name} {arguments}…: exit status {done.returncode}: {lines[-1]}")
    return done.stdout
