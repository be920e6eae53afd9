"""AF_VSOCK: how a guest reaches its host on Hyper-V, QEMU and Firecracker alike."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from gcs.transport.base import DIAL_SECONDS, dial_within, open_connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST_CID = 2  # VMADDR_CID_HOST
ATTEMPTS = 10
RETRY_SECONDS = 0.1


class VsockTransport:
    """Dials vsock ports.

    Args:
        cid: Context id of the peer; the host by default.
        seconds: Limit for one dial, with all its attempts.
    """

    __slots__ = ("_cid", "_seconds")

    def __init__(self, cid: int = HOST_CID, *, seconds: float = DIAL_SECONDS) -> None:
        self._cid = cid
        self._seconds = seconds

    async def dial(self, port: int) -> socket.socket:
        """See Transport.dial; what timed out is tried again, as spec 1.1 says."""

        def connect() -> Awaitable[socket.socket]:
            return open_connection(socket.AF_VSOCK, (self._cid, port))

        return await dial_within(
            self._seconds,
            f"vsock port {port} of CID {self._cid}",
            lambda: repeat_timed_out(connect),
        )


async def repeat_timed_out(
    connect: Callable[[], Awaitable[socket.socket]],
    attempts: int = ATTEMPTS,
    pause: float = RETRY_SECONDS,
) -> socket.socket:
    """Await `connect()` until it doesn't fail with ETIMEDOUT, `pause` seconds apart.

    The kernel gives an unanswered request up after 2 s (SO_VM_SOCKETS_CONNECT_TIMEOUT).
    Raises the last OSError.
    """
    for _ in range(attempts - 1):
        try:
            return await connect()
        except OSError as error:
            if error.errno != errno.ETIMEDOUT:
                raise
        await asyncio.sleep(pause)
    return await connect()
