"""Announcements of the kernel that a device came, changed or went (netlink, kobject_uevent).

The content of an announcement is not parsed: whoever waits for a device looks at sysfs again.
"""

from __future__ import annotations

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
    from errno import ENOBUFS

    count = 0
    while True:
        try:
            events.recv(_LONGEST_MESSAGE)
        except BlockingIOError:
            return count
        except OSError as error:
            # The kernel dropped announcements because the buffer was full.
            if error.errno != ENOBUFS:
                raise
        count += 1
