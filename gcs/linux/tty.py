"""Pseudo-terminals: unlocking, controlling terminal, window size (ioctl_tty(2))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

# asm-generic/ioctls.h; the standard library's termios has the others
TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430
TIOCGPTPEER = 0x5441

_INT = struct.Struct("i")
_WINDOW_SIZE = struct.Struct("HHHH")


def _ioctl(descriptor: int, request: int, argument: bytes | int, name: str) -> bytes | int:
    try:
        return fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        raise OSError(
            error.errno, f"ioctl {name}: {error.strerror}", f"descriptor {descriptor}"
        ) from None


def unlock_slave(master: int) -> None:
    """Allow the slave of a newly opened master (/dev/ptmx) to be opened; OSError ENOTTY if none."""
    _ioctl(master, TIOCSPTLCK, _INT.pack(0), "TIOCSPTLCK")


def slave_number(master: int) -> int:
    """Number n of the slave, /dev/pts/n in the devpts that the master belongs to."""
    result = _ioctl(master, TIOCGPTN, _INT.pack(0), "TIOCGPTN")
    return int(_INT.unpack(bytes(result))[0])


def open_slave(master: int) -> int:
    """Open the slave of `master` without a path: right even when devpts is mounted elsewhere.

    The descriptor is close-on-exec and does not become the controlling terminal.
    """
    return int(_ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, "TIOCGPTPEER"))


def open_pair(multiplexer: str = "/dev/ptmx") -> tuple[int, int]:
    """A new pseudo-terminal as (master, slave), both close-on-exec.

    Raises OSError naming the multiplexer (ENOSPC when no more terminals are allowed), or the
    failed operation; then nothing stays open.
    """
    master = os.open(multiplexer, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        unlock_slave(master)
        return master, open_slave(master)
    except OSError:
        os.close(master)
        raise


def set_controlling_terminal(terminal: int) -> None:
    """Make `terminal` the controlling terminal of this process, which must lead its session.

    Raises OSError EPERM when the process leads no session or has such a terminal already.
    """
    _ioctl(terminal, termios.TIOCSCTTY, 0, "TIOCSCTTY")


def set_window_size(terminal: int, rows: int, columns: int) -> None:
    """Set the size in characters (0 to 65535 each); the foreground group gets SIGWINCH if changed.

    Works on master and slave.  Raises ValueError for a number that does not fit, OSError otherwise.
    """
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise ValueError(f"window size {columns} columns by {rows} rows is out of range")
    _ioctl(terminal, termios.TIOCSWINSZ, _WINDOW_SIZE.pack(rows, columns, 0, 0), "TIOCSWINSZ")


def window_size(terminal: int) -> tuple[int, int]:
    """(rows, columns) of the terminal."""
    result = _ioctl(terminal, termios.TIOCGWINSZ, bytes(_WINDOW_SIZE.size), "TIOCGWINSZ")
    rows, columns, _, _ = _WINDOW_SIZE.unpack(bytes(result))
    return rows, columns
