"""The host's ends of the streams of one process: ports, and the sockets dialled to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

    from gcs.transport import Transport


class StdioPorts(NamedTuple):
    """Ports the host listens on, one for each stream it wants (spec 1.11); None: not wanted."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class StdioSockets:
    """Owner of up to three connected sockets; a stream that is not wanted is None."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(
        self,
        stdin: socket.socket | None = None,
        stdout: socket.socket | None = None,
        stderr: socket.socket | None = None,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def close(self) -> None:
        """Close those that are still owned; may be called again."""
        for connection in (self.stdin, self.stdout, self.stderr):
            if connection is not None:
                connection.close()
        self.stdin = self.stdout = self.stderr = None


async def connect(transport: Transport, ports: StdioPorts) -> StdioSockets:
    """Dial the wanted streams in the order stdin, stdout, stderr.

    Raises DialError; then, and when cancelled, those already connected are closed.
    """
    sockets = StdioSockets()
    try:
        if ports.stdin is not None:
            sockets.stdin = await transport.dial(ports.stdin)
        if ports.stdout is not None:
            sockets.stdout = await transport.dial(ports.stdout)
        if ports.stderr is not None:
            sockets.stderr = await transport.dial(ports.stderr)
    except BaseException:
        sockets.close()
        raise
    return sockets
