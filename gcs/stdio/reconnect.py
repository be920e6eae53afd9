"""Getting a lost connection of a container's stream back (spec 1.10, 1.11, 2.9).

When a VM is moved to another host, or its host process is replaced, every connection breaks.  The
host that takes over listens on the same ports again.

How a loss is told from an order of the host: no host that wants a stream closes it before its end.
It half-closes stdin, and of an output stream it closes all, but only after our EOF.  What a reader
sees is not enough to tell these apart: a vsock (of Hyper-V as well as virtio) reads as EOF when
the host has half-closed, when it has closed, and when the connection was reset; only a reset of the
whole transport is an error (ENOTCONN or ECONNRESET).  What differs is the way back: after a
half-close it is open.  So `peer_is_gone()` asks for that, which works for unix sockets, too.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.stdio.sockets import StdioPorts
    from gcs.transport import Transport

logger = logging.getLogger(__name__)

#: Pause between two attempts.
REDIAL_SECONDS: Final = 0.1

#: More than a Hyper-V socket can have on its way: 24 KiB in the guest, 64 KiB in the host.
REPLAY_SIZE: Final = 128 * 1024

#: On virtio it depends on the device: 256 KiB of credit is usual, and one that passes the bytes on
#: to a unix socket has that one's buffer, too (384 KiB measured with the device of `uvm`).
_VIRTIO_REPLAY_SIZE: Final = 512 * 1024
_HYPER_V_BUS: Final = "/sys/bus/vmbus"

#: The kernel doubles it, and allows one piece of half the result on top: 96 KiB on their way.
_UNIX_SEND_BUFFER: Final = 32 * 1024

#: A bridge that was up when a connection was made, or for some time when it was lost, and still is
#: after so long, shows that the host lives and has closed the stream on purpose.  All connections
#: of a VM that is moved break at once.
_HOST_STAYED_SECONDS: Final = 5.0
_SAME_MOMENT_SECONDS: Final = 1.0

#: A connection that does not last longer is not worth an entry in the log.
_SHORT_LIVED_SECONDS: Final = 1.0

_DISCONNECTED: Final = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN))


def is_disconnect(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that the host end of a connection is gone.

    Only EPIPE, ECONNRESET and ENOTCONN do.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISCONNECTED:
            return True
        error = error.__cause__
    return False


def peer_is_gone(connection: socket.socket) -> bool:
    """Return whether nobody will read what is sent; not to be asked after a half-close of ours."""
    try:
        # The kernel checks the state of the connection, and sends nothing.
        connection.send(b"")
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True
    return False


def closed_by_host() -> OSError:
    """Return the error for a connection that ended without one."""
    return ConnectionResetError(errno.ECONNRESET, "the host has closed it before the end")


def limit_bytes_in_flight(connection: socket.socket) -> None:
    """See to it that a connection holds no more unread bytes than replay_size() says.

    A vsock needs nothing: the device sets the limit.
    """
    if connection.family == socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_SEND_BUFFER)


def replay_size(connection: socket.socket) -> int:
    """Return how many bytes can be lost with a connection, at most."""
    if connection.family == socket.AF_VSOCK and not os.path.isdir(_HYPER_V_BUS):
        return _VIRTIO_REPLAY_SIZE
    return REPLAY_SIZE


class Reconnect:
    """How the streams of one process come back after a loss.

    Args:
        transport: Dials the host.
        ports: The same that were dialled at first.
        host_connected_since: Returns the time of the loop since when the bridge is connected
            without a break, or None while it is not.  With it, nothing is dialled while the host
            is away, and a stream that a host closes on purpose is given up after some seconds:
            output is dropped, input is at its end.  Without it, only stop() ends a redial.
    """

    __slots__ = ("host_connected_since", "ports", "transport")

    def __init__(
        self,
        transport: Transport,
        ports: StdioPorts,
        host_connected_since: Callable[[], float | None] | None = None,
    ) -> None:
        self.transport = transport
        self.ports = ports
        self.host_connected_since = host_connected_since


class Redialler:
    """Dials the port of one stream, again and again.

    Args:
        name: Whose stream it is, for the log.
        reconnect: See there.
        port: Which of its ports.
    """

    __slots__ = (
        "_connected_at",
        "_dialled_at",
        "_given_up",
        "_loop",
        "_made_at",
        "_name",
        "_port",
        "_reconnect",
        "_short_lived",
        "_stopped",
        "_task",
    )

    def __init__(self, name: str, reconnect: Reconnect, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._reconnect = reconnect
        self._port = port
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self._given_up: Callable[[], None] = self.cancel
        self._short_lived = False
        self._made_at = self._loop.time()
        self._connected_at = self._dialled_at = -REDIAL_SECONDS - _SHORT_LIVED_SECONDS

    def start(
        self,
        cause: OSError,
        connected: Callable[[socket.socket], None],
        given_up: Callable[[OSError], None],
        limit_seconds: float | None = None,
    ) -> None:
        """Dial until there is a connection, then call `connected` with it, its new owner.

        Or call `given_up` with `cause`: at once when stop() was called before, else when it is, or
        the host has closed the stream on purpose, or `limit_seconds` have passed.
        """
        if self._stopped:
            given_up(cause)
            return
        self._short_lived = self._loop.time() - self._connected_at < _SHORT_LIVED_SECONDS
        self._log(logging.WARNING, "connection to the host lost, dialling again: %s", cause)
        self._given_up = lambda: given_up(cause)
        self._task = self._loop.create_task(
            self._run(connected, limit_seconds), name=f"redial of {self._name}"
        )

    def stop(self) -> None:
        """Give up the redial under way, and start no other; may be called again."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            self._give_up()

    def cancel(self) -> None:
        """End the redial under way without a call back; may be called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _give_up(self) -> None:
        self._task = None
        self._given_up()

    async def _run(
        self, connected: Callable[[socket.socket], None], limit_seconds: float | None
    ) -> None:
        lost_at = self._loop.time()
        while True:
            # Also between connections that are made and lost again at once.
            await asyncio.sleep(max(0.0, self._dialled_at + REDIAL_SECONDS - self._loop.time()))
            self._dialled_at = self._loop.time()
            connection = await self._dial()
            if connection is not None:
                break
            now = self._loop.time()
            late = limit_seconds is not None and now - lost_at > limit_seconds
            if late or self._host_stayed(lost_at, now):
                self._give_up()
                return
        self._task = None
        self._made_at = self._connected_at = self._loop.time()
        self._log(logging.INFO, "connected to the host again")
        connected(connection)

    def _log(self, level: int, text: str, *values: object) -> None:
        level = logging.DEBUG if self._short_lived else level
        logger.log(level, "%s: " + text, self._name, *values)

    async def _dial(self) -> socket.socket | None:
        since = self._reconnect.host_connected_since
        if since is not None and since() is None:
            return None
        try:
            return await self._reconnect.transport.dial(self._port)
        except (OSError, GcsError) as error:
            logger.debug("%s: %s", self._name, error)
            return None

    def _host_stayed(self, lost_at: float, now: float) -> bool:
        if self._reconnect.host_connected_since is None or now - lost_at < _HOST_STAYED_SECONDS:
            return False
        since = self._reconnect.host_connected_since()
        if since is None:
            return False
        return since <= self._made_at or since < lost_at - _SAME_MOMENT_SECONDS


def read_end(connection: socket.socket) -> bytes | OSError | None:
    """Read from a connection on which nothing is expected but its end.

    Returns bytes that came nevertheless, b"" at EOF, an error, or None for a false alarm.
    """
    try:
        return connection.recv(4096)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError as error:
        return error
