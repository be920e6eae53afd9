"""Announcements of the kernel that a device came, changed or went (netlink, kobject_uevent).

Of an announcement only the path of the device is of use: whoever waits looks at sysfs again.
"""

from __future__ import annotations

import os
import socket

NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1  # multicast group of the kernel; udev's own messages are in group 2
_BUFFER_BYTES = 256 * 1024
_LONGEST_MESSAGE = 8192


def open_socket() -> socket.socket:
    """A non-blocking, close-on-exec socket that becomes readable when the kernel announces.

    Raises OSError when the kernel has no such sockets.
    """
    events = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        NETLINK_KOBJECT_UEVENT,
    )
    try:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        events.bind((0, _KERNEL_GROUP))
    except OSError as error:
        events.close()
        raise OSError(error.errno, f"bind: {error.strerror}", "netlink kobject uevents") from None
    return events


def drain(events: socket.socket) -> int:
    """Read everything that waits in the socket; the number of announcements, at least 1 after loss.

    Raises OSError when the socket is broken.
    """
    return len(read_announcements(events))


def read_announcements(events: socket.socket) -> list[str]:
    """Read everything that waits in the socket: `action@device`, the path below /sys.

    Some are "" when the kernel had to drop others, which may have been about anything.
    Raises OSError when the socket is broken.
    """
    from errno import ENOBUFS

    found: list[str] = []
    while True:
        try:
            message = events.recv(_LONGEST_MESSAGE)
        except BlockingIOError:
            return found
        except OSError as error:
            # The kernel dropped announcements because the buffer was full.
            if error.errno != ENOBUFS:
                raise
            message = b""
        found.append(os.fsdecode(message.partition(b"\0")[0]))
