"""Capacity of pipes (fcntl(2), F_SETPIPE_SZ)."""

from __future__ import annotations

import fcntl


def pipe_size(descriptor: int) -> int:
    """Capacity of a pipe in bytes; OSError EBADF when the descriptor is no pipe."""
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)


def set_pipe_size(descriptor: int, size: int) -> int:
    """Set the capacity and return what the kernel made of it (a power of two, at least a page).

    Raises OSError naming the descriptor: EPERM above /proc/sys/fs/pipe-max-size without
    CAP_SYS_RESOURCE, EBUSY when the pipe holds more than `size` bytes.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, size)
    except OSError as error:
        raise OSError(
            error.errno, f"pipe size {size}: {error.strerror}", f"descriptor {descriptor}"
        ) from None
