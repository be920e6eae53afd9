"""Connecting to a port of the host, without asyncio.

A connect is always non-blocking with a wait for writability: when a signal interrupts a blocking
connect on a vsock, the kernel sends a second request, the host's one-shot listener has accepted the
first, and the connection is dead (spec, appendix E, "INTERRUPTED CONNECT").

`_socket` is used instead of `socket`, which takes 12 ms to import.
"""

from __future__ import annotations

import errno
import os
import select
from _socket import (
    AF_UNIX,
    AF_VSOCK,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from gcs.init.options import UsageError

HOST_CID = 2


class Dialer:
    """Makes connections to ports of the host."""

    __slots__ = ("_prefix",)

    def __init__(self, transport: str = "vsock") -> None:
        """Take where ports are found.

        transport: "vsock" for the host of this machine, or "unix:<prefix>": port n is the unix
        socket `<prefix>_<n>`, for use without a virtual machine.  UsageError for anything else.
        """
        kind, _, prefix = transport.partition(":")
        if transport != "vsock" and (kind != "unix" or not prefix):
            raise UsageError(f"invalid transport {transport!r}: use vsock or unix:<prefix>")
        self._prefix = prefix

    def start(self, port: int) -> socket:
        """Begin to connect; the socket becomes writable when that is decided, see `finish`.

        The socket is non-blocking and close-on-exec.  Raises OSError naming the port when the
        attempt fails at once; then nothing stays open.
        """
        family = AF_UNIX if self._prefix else AF_VSOCK
        address = f"{self._prefix}_{port}" if self._prefix else (HOST_CID, port)
        connection = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        try:
            number = connection.connect_ex(address)
        except OSError:  # the path of a unix socket is too long
            connection.close()
            raise
        if number not in (0, errno.EINPROGRESS):
            connection.close()
            raise _failure(number, port)
        return connection

    def finish(self, connection: socket, port: int) -> None:
        """Complete what `start` began, once the socket is writable.

        Raises OSError naming the port when the connection was refused; the socket is closed then.
        """
        number = connection.getsockopt(SOL_SOCKET, SO_ERROR)
        if number:
            connection.close()
            raise _failure(number, port)

    def dial(self, port: int, timeout: float) -> socket:
        """A connected, non-blocking socket; waits up to `timeout` seconds.

        Raises OSError naming the port: ETIMEDOUT after that time, ECONNREFUSED or ECONNRESET when
        nobody listens, ENODEV when the machine has no vsock device.
        """
        connection = self.start(port)
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        if not poll.poll(timeout * 1000):
            connection.close()
            raise _failure(errno.ETIMEDOUT, port)
        self.finish(connection, port)
        return connection


def _failure(number: int, port: int) -> OSError:
    return OSError(number, os.strerror(number), f"port {port}")
