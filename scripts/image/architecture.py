"""The machines an image can be built for, and what is called differently on them."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of machine."""

    name: str
    """Debian's name for it."""
    machine: str
    """The kernel's name for it (uname -m), which the cross tools begin with."""
    loader: str
    """File name of the C library's loader."""
    loader_link: str
    """Where programs of distributions look for the loader."""
    wheel: str
    """What file names of wheels end in."""
    static_flags: tuple[str, ...] = ()
    """What the compiler needs for a static program with another C library than glibc."""

    @property
    def triplet(self) -> str:
        """Debian's directory name for libraries."""
        return f"{self.machine}-linux-gnu"

    @property
    def native(self) -> bool:
        """Whether this machine runs its programs."""
        return os.uname().machine == self.machine

    @property
    def kernel_package(self) -> str:
        """The package that depends on the newest kernel of the distribution."""
        return f"linux-image-{self.name}"

    def tool(self, name: str) -> str:
        """Return the name of a compiler or of one of binutils that works on its files."""
        return name if self.native else f"{self.triplet}-{name}"

    def command(self, *words: str) -> list[str]:
        """Return a command that runs one of its programs here, under an emulator if need be."""
        return list(words) if self.native else [self.emulator, *words]

    @property
    def emulator(self) -> str:
        """The program that runs its programs on other machines; statically linked."""
        return f"qemu-{self.machine}-static"


AMD64 = Architecture(
    name="amd64",
    machine="x86_64",
    loader="ld-linux-x86-64.so.2",
    loader_link="lib64/ld-linux-x86-64.so.2",
    wheel="manylinux2014_x86_64",
)
ARM64 = Architecture(
    name="arm64",
    machine="aarch64",
    loader="ld-linux-aarch64.so.1",
    loader_link="lib/ld-linux-aarch64.so.1",
    wheel="manylinux2014_aarch64",
    # Otherwise it would call helpers that ask glibc about the processor.
    static_flags=("-mno-outline-atomics",),
)

ARCHITECTURES = {each.name: each for each in (AMD64, ARM64)}


def this_machine() -> Architecture:
    """Return the architecture of the machine that builds; amd64's where it is none of these."""
    machine = os.uname().machine
    return next((each for each in ARCHITECTURES.values() if each.machine == machine), AMD64)
