"""What every transport offers, and the one way in which a socket is connected."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Protocol

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# A port that nobody listens on is refused at once; only a host that stopped answering makes a
# dial last this long.  Far below the 5 minutes after which the host gives a request up.
DIAL_SECONDS = 30.0


class DialError(GcsError):
    """A port of the host could not be reached; `__cause__` is the OSError."""


class Transport(Protocol):
    """Opens connections to numbered ports of the host; the host listens (spec 1.1)."""

    async def dial(self, port: int) -> socket.socket:
        """Connect to `port` and return the non-blocking, close-on-exec stream socket.

        The caller owns the socket.  Raises DialError when the port can't be reached, within
        seconds.  When cancelled, nothing stays open.
        """
        ...


async def open_connection(family: int, address: tuple[int | str, int] | str) -> socket.socket:
    """Make a stream socket and connect it; whatever goes wrong, no socket is left.

    Never blocks in connect(2): a blocking connect on a vsock that a signal interrupts is restarted
    by the kernel with a second connection request, which a host that accepts only once then
    answers with a reset (spec appendix E, "INTERRUPTED CONNECT").

    Raises OSError; BlockingIOError when the backlog of a unix socket is full.
    """
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        number = connection.connect_ex(address)
        # EAGAIN means "in progress" for no family: a unix socket isn't being connected then.
        if number in (errno.EINPROGRESS, errno.EINTR):
            await _writable(connection)
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        connection.close()
        raise
    return connection


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    descriptor = connection.fileno()
    loop.add_writer(descriptor, set_ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def dial_within(
    seconds: float, address: str, attempt: Callable[[], Awaitable[socket.socket]]
) -> socket.socket:
    """Await `attempt()`, at most `seconds`, and turn its OSError into a DialError.

    address: what is dialled, for people ("vsock port 109 of CID 2").
    """
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await attempt()
    except OSError as error:
        cause = f"no answer within {seconds:g} s" if deadline.expired() else error.strerror
        raise DialError(f"cannot connect to {address}: {cause or error}") from error
