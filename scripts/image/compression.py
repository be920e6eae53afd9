"""Ways to compress the initrd: those that Linux unpacks, with the same bytes for the same input."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from scripts.image import archive
from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# One thread of zstd: with several, the blocks depend on how many there are.
# Of LZ4's two forms the kernel knows the older alone.
_PROGRAMS: dict[str, Sequence[str]] = {
    "zstd": ("zstd", "-19", "-T1", "-q", "-c"),
    "lz4": ("lz4", "-l", "-12", "-q", "-c"),
}

COMPRESSIONS = ("gzip", *_PROGRAMS, "none")


def compress(kind: str, source: Path, target: Path) -> None:
    """Write a file compressed.

    Parameters:
        kind: one of COMPRESSIONS.
        source: the file.
        target: which is there only once it is complete.

    Raises:
        BuildError: the program for it is missing or fails.
    """
    with source.open("rb") as plain:
        if kind == "gzip":
            with archive.gzipped(target) as out:
                shutil.copyfileobj(plain, out, 1 << 20)
            return
        with archive.replacing(target) as out:
            if kind == "none":
                shutil.copyfileobj(plain, out, 1 << 20)
                return
            command = _PROGRAMS[kind]
            try:
                done = subprocess.run(
                    command, stdin=plain, stdout=out, stderr=subprocess.PIPE, check=False, text=True
                )
            except FileNotFoundError as error:
                text = f"{command[0]}: not found; run 'make setup' to install it"
                raise BuildError(text) from error
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise BuildError(f"{command[0]}: exit status {done.returncode}: {lines[-1]}")
