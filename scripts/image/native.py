"""The one program of the image that is compiled: what PID 1 becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scripts.image.errors import run

if TYPE_CHECKING:
    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

REAPER = "usr/lib/gcs/bin/init"
"""Where it is in the image."""

_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Wconversion", "-Werror")


class Compiler(NamedTuple):
    """A C compiler that makes static programs: what comes before a source, and what after it."""

    before: list[str | Path]
    after: list[str | Path]


NATIVE = Compiler(["musl-gcc", "-static"], [])


def compile_reaper(repository: Path, target: Path, compiler: Compiler = NATIVE) -> None:
    """Compile gcs/init/reaper.c to a static program, which needs no C library of the base.

    Raises:
        BuildError: the compiler is missing, or finds fault with it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A path of its own would be in the result; relative, the bytes are the same everywhere.
    words = [*compiler.before, "gcs/init/reaper.c", *compiler.after]
    run([*words, *_FLAGS, "-o", target.resolve()], cwd=repository)


def compiler_for(cache: PackageCache, architecture: Architecture) -> Compiler:
    """Return a compiler for a machine; `cache` has packages of its architecture."""
    if architecture.native:
        return NATIVE
    # What musl-gcc does, with another compiler and the C library of a package.
    (musl,) = cache.unpack(["musl-dev"])
    triplet = f"{architecture.machine}-linux-musl"
    lib = musl / "usr/lib" / triplet
    gcc = architecture.tool("gcc")
    # Without -mno-outline-atomics it would call helpers that ask glibc about the processor.
    before: list[str | Path] = [gcc, "-static", "-nostdlib", "-mno-outline-atomics"]
    before += ["-fno-stack-protector", "-nostdinc"]
    own_headers = Path(run([gcc, "-print-file-name=include"]).strip())
    for folder in (musl / "usr/include" / triplet, own_headers):
        before += ["-isystem", folder]
    before += [lib / "crt1.o", lib / "crti.o"]
    return Compiler(before, [lib / "libc.a", "-lgcc", lib / "crtn.o"])
