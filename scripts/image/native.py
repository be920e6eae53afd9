"""The one program of the image that is compiled: what PID 1 becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.image.errors import run

if TYPE_CHECKING:
    from pathlib import Path

REAPER = "usr/lib/gcs/bin/init"
"""Where it is in the image."""

_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Wconversion", "-Werror")


def compile_reaper(repository: Path, target: Path) -> None:
    """Compile gcs/init/reaper.c to a static program, which needs no C library of the base.

    Raises:
        BuildError: the compiler is missing, or finds fault with it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A path of its own would be in the result; relative, the bytes are the same everywhere.
    command = ("musl-gcc", "-static", *_FLAGS, "-o", target.resolve(), "gcs/init/reaper.c")
    run(command, cwd=repository)
