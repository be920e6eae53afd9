"""A connection to the host that is dialled again when it is lost (spec 1.11)."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final

from gcs.stdio.reconnect import (
    closed_by_host,
    is_disconnect,
    limit_bytes_in_flight,
    peer_is_gone,
    read_end,
    replay_size,
)
from gcs.stdio.replay_buffer import ReplayBuffer
from gcs.stdio.sink import LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.stdio.reconnect import Redialler

logger = logging.getLogger(__name__)

#: For how long a stream that has ended can still find out that its last bytes were lost: when the
#: whole VM lost its host within this time of the end, the end was no answer of the host.
DOUBT_SECONDS: Final = 1.0

#: For how long a stream that has ended, and nobody waits for, is dialled.
ENDED_LIMIT_SECONDS: Final = 230.0

#: The same when it is not certain that anything was lost: most often the host has read all, and
#: listens no more.
DOUBTFUL_LIMIT_SECONDS: Final = 10.0

_NOTHING: Final = memoryview(b"")


class ReconnectingSink:
    """A Sink that survives the loss of its connection, and repeats what may have been lost.

    Without a connection it is full.  A loss is noticed at once, also while nothing is written.  On
    the new connection the last bytes are sent again, since nobody can know what the host has read:
    it may get up to `replay_size()` bytes twice.

    Args:
        connection: A non-blocking connected stream socket, owned from now on.
        name: Whose stream it is, for the log.
        redialler: Gets the next connection, when this one is lost.
        linger_seconds: For how long, after the end, the host may leave its side open.
    """

    __slots__ = (
        "_callback",
        "_closed",
        "_connection",
        "_ended",
        "_failure",
        "_half_closed",
        "_host_lost_at",
        "_linger_seconds",
        "_loop",
        "_name",
        "_recent",
        "_redialler",
        "_replay",
        "_settled",
        "_timer",
    )

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        redialler: Redialler,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._redialler = redialler
        self._linger_seconds = linger_seconds
        self._connection: socket.socket | None = None
        self._recent = ReplayBuffer(replay_size(connection))
        self._replay = _NOTHING
        self._callback: Callable[[], None] | None = None
        self._failure: OSError | None = None
        self._ended = self._half_closed = self._closed = False
        self._host_lost_at = -DOUBT_SECONDS
        self._settled = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._adopt(connection)
        self._settled.set()

    def write(self, data: bytes | memoryview) -> int:
        """See Sink.write; the error of a loss is raised only when it is final."""
        if self._failure is not None:
            raise self._failure
        if self._connection is None or self._replay:
            return 0
        taken = self._send(data)
        if self._failure is not None:
            raise self._failure
        self._recent.append(data[:taken])
        return taken

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """See Sink.when_writable."""
        self._callback = callback
        self._watch()

    def end(self) -> None:
        """See Sink.end; a connection that is lost before the host has read all is dialled again."""
        self._ended = True
        if self._failure is not None:
            self.close()
        elif self._connection is not None and not self._replay:
            self._half_close(self._connection)

    async def settled(self, seconds: float) -> bool:
        """Wait until all bytes that were taken are on a connection, at most `seconds`.

        True as well when there were none, or nothing can be done for them any more.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def stop_reconnecting(self) -> None:
        """From now on a loss is final; may be called again."""
        self._redialler.stop()

    def connection_lost(self) -> None:
        """See to it whether this connection is lost, too: others of the VM are."""
        self._host_lost_at = self._loop.time()
        if self._closed:
            return
        if self._connection is None:
            if self._half_closed:
                self._lost(closed_by_host())  # the end that the host seemed to answer
        elif not self._half_closed and peer_is_gone(self._connection):
            self._lost(closed_by_host())

    def close(self) -> None:
        """See Sink.close."""
        self._closed = True
        self._redialler.cancel()
        self._drop_connection()
        self._recent.clear()
        self._settled.set()

    def _adopt(self, connection: socket.socket) -> None:
        limit_bytes_in_flight(connection)
        self._connection = connection
        self._loop.add_reader(connection.fileno(), self._host_spoke)

    def _drop_connection(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection, self._connection = self._connection, None
        self._replay = _NOTHING
        if connection is not None:
            self._loop.remove_reader(connection.fileno())
            self._loop.remove_writer(connection.fileno())
            connection.close()

    def _lost(self, error: OSError, ended_limit: float = ENDED_LIMIT_SECONDS) -> None:
        self._drop_connection()
        self._half_closed = False
        if self._recent:
            self._settled.clear()
        limit = ended_limit if self._ended else None
        self._redialler.start(error, self._connected, self._fail, limit)

    def _connected(self, connection: socket.socket) -> None:
        self._adopt(connection)
        self._host_lost_at = -DOUBT_SECONDS  # that was another host
        self._replay = memoryview(self._recent.tail())
        self._resend(connection)

    def _fail(self, error: OSError) -> None:
        """There will be no connection any more: who writes is told."""
        self._failure = error
        if self._ended:
            logger.warning("%s: the end of the output may be lost: %s", self._name, error)
            self.close()
            return
        self._drop_connection()
        self._settled.set()
        if self._callback is not None:
            self._loop.call_soon(self._wake_writer)

    def _wake_writer(self) -> None:
        if self._callback is not None:
            self._callback()

    def _watch(self) -> None:
        if self._connection is None:
            return
        if self._replay or self._callback is not None:
            self._loop.add_writer(self._connection.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._connection.fileno())

    def _writable(self) -> None:
        if self._replay and self._connection is not None:
            self._resend(self._connection)
        else:
            self._wake_writer()

    def _resend(self, connection: socket.socket) -> None:
        sent = 0
        try:
            sent = self._send(self._replay)
        except OSError as error:
            self._fail(error)
        if self._connection is not connection:
            return
        self._replay = self._replay[sent:]
        if not self._replay:
            self._replay = _NOTHING
            self._settled.set()
            if self._ended:
                self._half_close(connection)
                return
        self._watch()

    def _send(self, data: bytes | memoryview) -> int:
        if self._connection is None:
            return 0
        try:
            return self._connection.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            if not is_disconnect(error):
                raise
            self._lost(error)
            return 0

    def _half_close(self, connection: socket.socket) -> None:
        if peer_is_gone(connection):
            self._lost(closed_by_host())
            return
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)
            return
        self._half_closed = True
        self._loop.add_reader(connection.fileno(), self._host_spoke)
        self._timer = self._loop.call_later(self._linger_seconds, self._host_stayed)

    def _host_stayed(self) -> None:
        logger.warning(
            "%s: the host did not close its end within %g s", self._name, self._linger_seconds
        )
        self.close()

    def _host_spoke(self) -> None:
        connection = self._connection
        if connection is None:
            return
        read = read_end(connection)
        if isinstance(read, OSError):
            end = self._lost if is_disconnect(read) else self._fail
            end(read)
        elif read:
            logger.warning("%s: host sent data on an output stream", self._name)
        elif read is not None and self._half_closed:
            self._host_answered()
        elif read is not None and peer_is_gone(connection):
            self._lost(closed_by_host())
        elif read is not None:
            # It will say nothing, and goes on listening.
            self._loop.remove_reader(connection.fileno())

    def _host_answered(self) -> None:
        """The host has closed after our EOF, unless it got lost with all its connections."""
        if self._loop.time() - self._host_lost_at < DOUBT_SECONDS:
            self._lost(closed_by_host(), DOUBTFUL_LIMIT_SECONDS)
            return
        self._drop_connection()
        self._timer = self._loop.call_later(DOUBT_SECONDS, self.close)
