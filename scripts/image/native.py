"""The programs that are compiled: what PID 1 becomes, and the init of the stub for root disks."""

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


PACKAGES = ("musl-dev",)
"""Debian packages whose code becomes a part of it."""


class Compiler(NamedTuple):
    """A C compiler that makes static programs: what comes before a source, and what after it."""

    before: list[str | Path]
    after: list[str | Path]


MUSL_GCC = Compiler(["musl-gcc", "-static"], [])
"""That of this machine, with the C library that is installed; for tests."""


def compile_reaper(repository: Path, target: Path, compiler: Compiler = MUSL_GCC) -> None:
    """Compile what PID 1 becomes."""
    compile_static(repository, "gcs/init/reaper.c", target, compiler)


def compile_static(
    repository: Path, source: str, target: Path, compiler: Compiler = MUSL_GCC
) -> None:
    """Compile a source to a static program, which needs no C library of the base.

    Raises:
        BuildError: the compiler is missing, or finds fault with it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A path of its own would be in the result; relative, the bytes are the same everywhere.
    words = [*compiler.before, source, *compiler.after]
    run([*words, *_FLAGS, "-o", target.resolve()], cwd=repository)


def compiler_for(cache: PackageCache, architecture: Architecture) -> Compiler:
    """Return a compiler for a machine; `cache` has packages of its architecture."""
    # What musl-gcc does, with the C library of a package.
    (musl,) = cache.unpack(PACKAGES)
    triplet = f"{architecture.machine}-linux-musl"
    lib = musl / "usr/lib" / triplet
    gcc = architecture.tool("gcc")
    before: list[str | Path] = [gcc, "-static", "-nostdlib", *architecture.static_flags]
    before += ["-fno-stack-protector", "-nostdinc", "-fno-ident", "-Wl,--build-id=none"]
    own_headers = Path(run([gcc, "-print-file-name=include"]).strip())
    for folder in (musl / "usr/include" / triplet, own_headers):
        before += ["-isystem", folder]
    before += [lib / "crt1.o", lib / "crti.o"]
    return Compiler(before, [lib / "libc.a", "-lgcc", lib / "crtn.o"])
