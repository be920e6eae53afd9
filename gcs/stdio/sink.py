"""Where a copier puts the bytes it has read."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: A host that is alive closes its end as soon as it has read EOF.
LINGER_SECONDS = 60.0


class Sink(Protocol):
    """The writing half of a copy; whatever survives a lost connection can stand behind it."""

    def write(self, data: bytes | memoryview) -> int:
        """Take as many leading bytes as there is room for, and return their number.

        Never blocks: 0 means full.  Raises OSError when the sink is gone for good.
        """
        ...

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """Call back on the loop whenever there may be room again, until set to None."""
        ...

    def end(self) -> None:
        """No more bytes will come: see to it that the other side gets what was written, and EOF.

        The sink needs no owner from now on; close() would cut that short.
        """
        ...

    def close(self) -> None:
        """Let go at once; may be called again."""
        ...


class NullSink:
    """Takes everything and keeps nothing."""

    __slots__ = ()

    def write(self, data: bytes | memoryview) -> int:
        """See Sink.write."""
        return len(data)

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """See Sink.when_writable; there is room always, so nobody waits."""

    def end(self) -> None:
        """See Sink.end."""

    def close(self) -> None:
        """See Sink.close."""


class DescriptorSink:
    """A non-blocking pipe or terminal.

    Args:
        descriptor: Where to write.
        owned: Close it at the end.  A terminal is left open: EOF is nothing one can write to it.
    """

    __slots__ = ("_descriptor", "_loop", "_owned")

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._owned = owned

    def write(self, data: bytes | memoryview) -> int:
        """See Sink.write."""
        try:
            return os.write(self._descriptor, data)
        except (BlockingIOError, InterruptedError):
            return 0

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """See Sink.when_writable."""
        if callback is not None:
            self._loop.add_writer(self._descriptor, callback)
        elif self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)

    def end(self) -> None:
        """See Sink.end; the reader of a pipe sees EOF behind the last byte."""
        self.close()

    def close(self) -> None:
        """See Sink.close."""
        if self._descriptor < 0:
            return
        self._loop.remove_writer(self._descriptor)
        if self._owned:
            os.close(self._descriptor)
        self._descriptor = -1


class SocketSink:
    """A connection to the host, which is owned from now on.

    Args:
        connection: A non-blocking connected stream socket.
        name: Whose stream it is, for the log.
        linger_seconds: For how long, after the end, the host may leave its side open.
    """

    __slots__ = ("_connection", "_linger", "_linger_seconds", "_loop", "_name")

    def __init__(
        self, connection: socket.socket, name: str, linger_seconds: float = LINGER_SECONDS
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._name = name
        self._linger_seconds = linger_seconds
        self._linger: asyncio.TimerHandle | None = None

    def write(self, data: bytes | memoryview) -> int:
        """See Sink.write."""
        try:
            return self._connection.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """See Sink.when_writable."""
        if callback is not None:
            self._loop.add_writer(self._connection.fileno(), callback)
        elif self._connection.fileno() >= 0:
            self._loop.remove_writer(self._connection.fileno())

    def end(self) -> None:
        """Half close, then wait in the background for the host to close its side (spec 4.9).

        Closing at once could cost the host what it has not read yet.  Nobody waits for this: a
        host that leaves its side open must not delay the report of an exit.
        """
        if self._connection.fileno() < 0 or self._linger is not None:
            return
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: the host has closed already
            logger.debug("%s: cannot half-close: %s", self._name, error)
            self.close()
            return
        self._loop.add_reader(self._connection.fileno(), self._host_answered)
        self._linger = self._loop.call_later(self._linger_seconds, self._host_stayed)

    def close(self) -> None:
        """See Sink.close."""
        if self._connection.fileno() < 0:
            return
        if self._linger is not None:
            self._linger.cancel()
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()

    def _host_stayed(self) -> None:
        logger.warning(
            "%s: the host did not close its end within %g s", self._name, self._linger_seconds
        )
        self.close()

    def _host_answered(self) -> None:
        try:
            data = self._connection.recv(1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            logger.info("%s: host ended the connection: %s", self._name, error)
        else:
            if data:
                logger.warning("%s: host sent data on an output stream", self._name)
        self.close()
