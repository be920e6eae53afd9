"""System calls that the standard library has not, or not for all that they can do."""

import ctypes
import errno
import fcntl
import functools
import os
import struct
from typing import Any, Final, NamedTuple

#: ``tv_nsec`` of utimensat(2): the time of the call; and no change.
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

_AT_FDCWD: Final = -100
# struct flock, with the padding at its end.
_LOCK: Final = struct.Struct("@hhqqi0q")
# struct linux_dirent64 up to the name.
_ENTRY: Final = struct.Struct("@QqHB")


class Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        inode: Its number.
        position: Where the entry behind it is, for a later call.
        type: As in ``d_type``.
        name: Its name.
    """

    inode: int
    position: int
    type: int
    name: bytes


class Lock(NamedTuple):
    """A lock of a range of a file.

    Attributes:
        type: ``F_RDLCK``, ``F_WRLCK`` or ``F_UNLCK``.
        start: First byte.
        length: Number of bytes; 0 means up to the end, wherever that will be.
        process: Who has it; -1 for locks of open files.
    """

    type: int
    start: int
    length: int
    process: int = 0


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def of_descriptor(descriptor: int) -> str:
    """Return a path that leads to exactly what a descriptor (O_PATH is enough) stands for."""
    return f"/proc/self/fd/{descriptor}"


def set_times(path: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set the times of a file; seconds and nanoseconds, the latter also UTIME_NOW or UTIME_OMIT.

    Raises:
        OSError: The kernel refused.
    """
    times = (_Time * 2)(_Time(*atime), _Time(*mtime))
    if _library().utimensat(_AT_FDCWD, os.fsencode(path), times, 0) != 0:
        raise _last_error()


def read_entries(directory: int, position: int, size: int) -> list[Entry]:
    """Return some entries of an open directory, from a position on; none at the end.

    Args:
        directory: Its descriptor, whose own position changes.
        position: 0, or that of an entry.
        size: Bytes of the kernel's buffer.

    Raises:
        OSError: The kernel refused.
    """
    os.lseek(directory, position, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(size)
    count = _library().getdents64(directory, buffer, size)
    if count < 0:
        raise _last_error()
    return _parse(buffer.raw[:count])


def set_lock(descriptor: int, lock: Lock) -> None:
    """Lock or unlock a range for an open file (not for a process), without waiting.

    Raises:
        OSError: BlockingIOError when somebody has it, and what else the kernel says.
    """
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _pack(lock))


def find_lock(descriptor: int, lock: Lock) -> Lock:
    """Return a lock that stands in the way of another one; F_UNLCK when none does."""
    answer = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _pack(lock)))
    return Lock(answer[0], answer[2], answer[3], answer[4])


def _pack(lock: Lock) -> bytes:
    try:
        return _LOCK.pack(lock.type, os.SEEK_SET, lock.start, lock.length, 0)
    except struct.error:
        raise OSError(errno.EINVAL, "a range beyond what a file has") from None


def _parse(data: bytes) -> list[Entry]:
    entries = []
    at = 0
    while at < len(data):
        inode, position, length, kind = _ENTRY.unpack_from(data, at)
        start = at + _ENTRY.size
        name = data[start : data.index(b"\0", start)]
        entries.append(Entry(inode, position, kind, name))
        at += length
    return entries


def _last_error() -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number))


@functools.cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)
