"""Opening paths that must not lead out of a directory: openat2(2)."""

from __future__ import annotations

import os
from errno import EAGAIN

from gcs.linux.libc import call, naming

# The same number on all machines, since Linux 5.6.
_SYS_OPENAT2 = 437

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# The kernel gives up with EAGAIN when somebody renames directories on the way.
_ATTEMPTS = 32


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path below a directory; symbolic links that lead out of it are an error.

    directory: descriptor of the directory (O_PATH is enough).
    path: relative path.
    flags, mode: as for os.open; O_CLOEXEC is added.

    Returns a descriptor.  Raises OSError naming the path: EXDEV when it leads out of the directory,
    ELOOP for the links of /proc, EAGAIN when others keep renaming directories on the way.
    """
    return _open(directory, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


def open_in_root(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path as a process does whose root directory is `directory` (chroot(2)).

    Absolute symbolic links and ".." start at, and stop at, that directory; otherwise as
    `open_beneath`.
    """
    return _open(directory, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def _open(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    if "\0" in path:
        raise ValueError("embedded null byte")
    # struct open_how
    numbers = (flags | os.O_CLOEXEC, mode, resolve)
    how = bytearray(b"".join(number.to_bytes(8, "little") for number in numbers))
    attempt = 0
    while True:
        attempt += 1
        try:
            return call("syscall", _SYS_OPENAT2, directory, os.fsencode(path), how, len(how))
        except OSError as error:
            if error.errno != EAGAIN or attempt == _ATTEMPTS:
                raise naming(error, "open", path) from None


def path_of(descriptor: int) -> str:
    """The path of an open file as the kernel knows it, free of symbolic links."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
