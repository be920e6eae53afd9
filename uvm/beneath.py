"""Opening paths that must not lead out of a directory: openat2(2)."""

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from typing import Final

#: The same number on all machines, since Linux 5.6.
_SYS_OPENAT2: Final = 437
#: From linux/openat2.h.
_NO_MAGIC_LINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
#: The kernel gives up with EAGAIN when somebody renames directories on the way.
_ATTEMPTS: Final = 64


def open_beneath(
    directory: int, path: bytes, flags: int, mode: int = 0, *, follow: bool = False
) -> int:
    """Open a path below a directory.

    Args:
        directory: Descriptor of the directory; one of O_PATH is enough.
        path: Relative path.
        flags: As for :func:`os.open`; O_CLOEXEC is added.
        mode: Permissions of a new file.
        follow: Allow symbolic links that stay below the directory; by default they are ELOOP.

    Raises:
        OSError: EXDEV where the path leads out of the directory, ELOOP for symbolic links and for
            the links of /proc.
    """
    resolve = _BENEATH | _NO_MAGIC_LINKS | (0 if follow else _NO_SYMLINKS)
    return _open(directory, path, flags, mode, resolve)


def _open(directory: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a name has no null bytes", os.fsdecode(path))
    # struct open_how
    numbers = (flags | os.O_CLOEXEC, mode, resolve)
    how = b"".join(number.to_bytes(8, "little") for number in numbers)
    number = errno.EAGAIN
    for _ in range(_ATTEMPTS):
        descriptor = _syscall()(_SYS_OPENAT2, directory, path, how, len(how))
        if descriptor >= 0:
            return int(descriptor)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


@functools.cache
def _syscall() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    function.argtypes = [
        *(ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    ]
    return function
