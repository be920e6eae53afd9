"""A host that sends nothing and ignores everything, for streams a policy forbids (spec 1.11)."""

from __future__ import annotations

import asyncio
import socket

from gcs.transport.base import DialError

READ_SIZE = 64 * 1024


class NullTransport:
    """Every port is a connection whose reads are EOF and whose writes are discarded."""

    __slots__ = ()

    async def dial(self, port: int) -> socket.socket:
        """See Transport.dial; fails only for want of descriptors or memory.

        The far end is read on the running loop, until the last copy of the returned socket, in
        whatever process, is closed.
        """
        try:
            near, far = socket.socketpair()
        except OSError as error:
            raise DialError(f"cannot make a null connection for port {port}: {error}") from error
        near.setblocking(False)
        far.setblocking(False)
        far.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        loop.add_reader(far.fileno(), _discard, loop, far)
        return near


def _discard(loop: asyncio.AbstractEventLoop, far: socket.socket) -> None:
    try:
        data = far.recv(READ_SIZE)
    except (BlockingIOError, InterruptedError):
        return
    except ConnectionResetError:
        data = b""  # closed with the EOF unread
    if not data:
        loop.remove_reader(far.fileno())
        far.close()
