"""The one program of the image that is compiled: what PID 1 becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image.errors import run

if TYPE_CHECKING:
    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

REAPER = "usr/lib/gcs/bin/init"
"""Where it is in the image."""

_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Wconversion", "-Werror")


class Compiler:
    """Compiles for a machine.

    Parameters:
        cache: packages of its architecture.
        architecture: of the machine.
    """

    def __init__(self, cache: PackageCache, architecture: Architecture) -> None:
        self._cache = cache
        self._architecture = architecture

    def compile_reaper(self, repository: Path, target: Path) -> None:
        """Compile gcs/init/reaper.c to a static program, which needs no C library of the base.

        Raises:
            BuildError: the compiler is missing, or finds fault with it.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        # A path of its own would be in the result; relative, the bytes are the same everywhere.
        source = "gcs/init/reaper.c"
        if self._architecture.native:
            command: list[str | Path] = ["musl-gcc", "-static", source]
        else:
            command = self._cross(source)
        run([*command, *_FLAGS, "-o", target.resolve()], cwd=repository)

    def _cross(self, source: str) -> list[str | Path]:
        """Return what musl-gcc does, with another compiler and the C library of a package."""
        (musl,) = self._cache.unpack(["musl-dev"])
        triplet = f"{self._architecture.machine}-linux-musl"
        lib = musl / "usr/lib" / triplet
        gcc = self._architecture.tool("gcc")
        own_headers = Path(run([gcc, "-print-file-name=include"]).strip())
        headers = ["-nostdinc", "-isystem", musl / "usr/include" / triplet, "-isystem", own_headers]
        start = [lib / "crt1.o", lib / "crti.o"]
        # Without -mno-outline-atomics it would call helpers that ask glibc about the processor.
        machine = ["-static", "-nostdlib", "-mno-outline-atomics", "-fno-stack-protector"]
        return [gcc, *machine, *headers, *start, source, lib / "libc.a", "-lgcc", lib / "crtn.o"]
