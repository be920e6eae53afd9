"""Unix sockets in place of vsock: port P of the host is the socket `<prefix>_<P>`.

That is the convention of Firecracker and cloud-hypervisor for connections that a guest opens; the
agent uses it to run outside a VM.
"""

from __future__ import annotations

import asyncio
import socket

from gcs.transport.base import DIAL_SECONDS, dial_within, open_connection

BACKLOG_SECONDS = 0.01


class UnixTransport:
    """Dials `<prefix>_<port>`.

    Args:
        prefix: Path of the sockets without the underscore and the port.
        seconds: Limit for one dial.
    """

    __slots__ = ("_prefix", "_seconds")

    def __init__(self, prefix: str, *, seconds: float = DIAL_SECONDS) -> None:
        self._prefix = prefix
        self._seconds = seconds

    async def dial(self, port: int) -> socket.socket:
        """See Transport.dial."""
        path = f"{self._prefix}_{port}"
        return await dial_within(
            self._seconds, f"port {port} at unix socket {path}", lambda: _connect(path)
        )


async def _connect(path: str) -> socket.socket:
    while True:
        try:
            return await open_connection(socket.AF_UNIX, path)
        except BlockingIOError:
            # The backlog is full, and nothing tells when there is room again.
            await asyncio.sleep(BACKLOG_SECONDS)
