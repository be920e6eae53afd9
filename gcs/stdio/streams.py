"""What relays are made of: streams with input from the host, and streams with output to it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

from gcs.stdio.copier import Copier
from gcs.stdio.sink import NullSink, SocketSink

if TYPE_CHECKING:
    from gcs.stdio.sink import Sink

logger = logging.getLogger(__name__)

# For how long a background child that keeps the output open can delay the report of an exit.
DRAIN_SECONDS = 1.0

# For how long a host that takes no bytes can delay it: just under the longest time-out of the agent
# (4 minutes), since bytes are lost after it.
STALL_SECONDS = 230.0


class InputStream:
    """Bytes of the host for a process; owns the socket and the sink from now on.

    The socket stays connected when the host has sent its EOF, until the process has exited.
    """

    __slots__ = ("_connection", "_copier", "_name", "_sink")

    def __init__(self, name: str, connection: socket.socket, sink: Sink) -> None:
        self._name = name
        self._connection = connection
        self._sink = sink
        self._copier = Copier(
            connection.fileno(), sink, self._host_ended, self._process_closed_input
        )

    def close(self) -> None:
        """Stop, tell the host that nobody reads any more, and close; may be called again."""
        self._copier.stop()
        self._sink.close()
        if self._connection.fileno() >= 0:
            self._refuse_more()
            self._connection.close()

    def _host_ended(self, error: OSError | None) -> None:
        if error is not None:
            logger.warning("%s: connection to the host lost, taken as EOF: %s", self._name, error)
        self._sink.end()

    def _process_closed_input(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            logger.warning("%s: cannot write: %s", self._name, error)
        self._sink.close()
        # Else a host with more to send would wait until the process exits.  What it has sent
        # already is read and dropped: a full unix socket is not reported as writable to a sender
        # that polls it, whatever has been shut down.
        self._refuse_more()
        self._copier.replace_sink(NullSink())

    def _refuse_more(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RD)
        except OSError as error:  # ENOTCONN: the host has closed already
            logger.debug("%s: cannot shut down: %s", self._name, error)


class OutputStream:
    """Bytes of a process for the host, or for nobody; owns the socket from now on.

    When the host goes away, or wants no such stream, the bytes are read and dropped: a closed pipe
    would kill the process with SIGPIPE, a full one would block it for ever.

    Args:
        name: Whose stream it is, for the log.
        source: Non-blocking descriptor to read.
        sink: Where the bytes go.
        owns_source: Close the source at its end.
    """

    __slots__ = ("_copier", "_name", "_owns_source", "_sink", "_source")

    def __init__(self, name: str, source: int, sink: Sink, *, owns_source: bool) -> None:
        self._name = name
        self._source = source
        self._owns_source = owns_source
        self._sink = sink
        self._copier = Copier(source, sink, self._process_ended_output, self._host_lost)

    @classmethod
    def to_socket(
        cls, name: str, source: int, connection: socket.socket | None, *, owns_source: bool
    ) -> OutputStream:
        """A stream to the host; connection: None when the host does not want it."""
        sink = NullSink() if connection is None else SocketSink(connection, name)
        return cls(name, source, sink, owns_source=owns_source)

    async def finish(self, drain_seconds: float, stall_seconds: float) -> None:
        """Deliver, after the exit of the process, what it wrote, and end the host's stream.

        A process that still holds the stream open is served until it ends, but its bytes are
        dropped: it must not be killed by SIGPIPE.  close() puts an end to that, too.
        """
        give_up = asyncio.get_running_loop().time() + drain_seconds
        lost = await self._copier.deliver(stall_seconds)
        if lost:
            logger.warning(
                "%s: the host took nothing for %g s; %d bytes are dropped",
                self._name,
                stall_seconds,
                lost,
            )
            self._sink.close()
            self._copier.replace_sink(NullSink())
        elif not await self._copier.ended(give_up - asyncio.get_running_loop().time()):
            logger.info("%s: another process keeps it open; what it writes is dropped", self._name)
            self._end_sink()

    def close(self) -> None:
        """Close everything at once; may be called again."""
        self._copier.stop()
        self._sink.close()
        self._release_source()

    def _process_ended_output(self, error: OSError | None) -> None:
        # EIO is how the master of a terminal says that the last slave was closed.
        if error is not None and error.errno != errno.EIO:
            logger.warning("%s: cannot read: %s", self._name, error)
        self._release_source()
        self._end_sink()

    def _end_sink(self) -> None:
        sink, self._sink = self._sink, NullSink()
        self._copier.replace_sink(self._sink)
        sink.end()

    def _host_lost(self, error: OSError) -> None:
        logger.warning(
            "%s: connection to the host lost, further output is dropped: %s", self._name, error
        )
        self._sink.close()
        self._copier.replace_sink(NullSink())

    def _release_source(self) -> None:
        if self._owns_source and self._source >= 0:
            os.close(self._source)
        self._source = -1


class Streams:
    """The streams of one process, which end together."""

    __slots__ = ("_input", "_outputs")

    def __init__(self) -> None:
        self._input: InputStream | None = None
        self._outputs: list[OutputStream] = []

    def set_input(self, stream: InputStream) -> None:
        """Take over the input."""
        self._input = stream

    def add_output(self, stream: OutputStream) -> None:
        """Take over an output."""
        self._outputs.append(stream)

    def close_input(self) -> None:
        """End the input, if there is one; may be called again."""
        if self._input is not None:
            self._input.close()

    async def finish(self, drain_seconds: float, stall_seconds: float) -> None:
        """End the input, and deliver the outputs side by side; when cancelled, close all."""
        self.close_input()
        try:
            await asyncio.gather(
                *(output.finish(drain_seconds, stall_seconds) for output in self._outputs)
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything at once; may be called again."""
        self.close_input()
        for output in self._outputs:
            output.close()
