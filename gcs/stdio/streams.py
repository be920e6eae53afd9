"""What relays are made of: streams with input from the host, and streams with output to it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

from gcs.stdio.copier import Copier
from gcs.stdio.reconnect import Redialler, closed_by_host, is_disconnect, peer_is_gone
from gcs.stdio.reconnecting_sink import ReconnectingSink
from gcs.stdio.sink import NullSink, SocketSink

if TYPE_CHECKING:
    from gcs.stdio.reconnect import Reconnect
    from gcs.stdio.sink import Sink
    from gcs.stdio.tee_log import TeeLog

logger = logging.getLogger(__name__)

# For how long a background child that keeps the output open can delay the report of an exit.
DRAIN_SECONDS = 1.0

# For how long a host that takes no bytes can delay it: just under the longest time-out of the agent
# (4 minutes), since bytes are lost after it.
STALL_SECONDS = 230.0


class InputStream:
    """Bytes of the host for a process; owns the socket and the sink from now on.

    The socket stays connected when the host has sent its EOF, until the process has exited.

    Args:
        name: Whose stream it is, for the log.
        connection: Non-blocking connected stream socket.
        sink: Where the bytes go.
        redialler: Gets a lost connection back.  None: a loss is EOF for the process.
    """

    __slots__ = ("_connection", "_copier", "_name", "_redialler", "_sink")

    def __init__(
        self,
        name: str,
        connection: socket.socket,
        sink: Sink,
        redialler: Redialler | None = None,
    ) -> None:
        self._name = name
        self._sink = sink
        self._redialler = redialler
        self._start(connection)

    def stop_reconnecting(self) -> None:
        """From now on a loss is EOF; may be called again."""
        if self._redialler is not None:
            self._redialler.stop()

    def close(self) -> None:
        """Stop, tell the host that nobody reads any more, and close; may be called again."""
        if self._redialler is not None:
            self._redialler.cancel()
            self._redialler = None
        self._copier.stop()
        self._sink.close()
        if self._connection.fileno() >= 0:
            self._refuse_more()
            self._connection.close()

    def _start(self, connection: socket.socket) -> None:
        self._connection = connection
        self._copier = Copier(
            connection.fileno(), self._sink, self._host_ended, self._process_closed_input
        )

    def _host_ended(self, error: OSError | None) -> None:
        if self._redialler is not None:
            # Half-closing is all a host does that has no more input (spec 1.11).
            if error is None and peer_is_gone(self._connection):
                error = closed_by_host()
            if error is not None and is_disconnect(error):
                self._connection.close()
                self._redialler.start(error, self._start, self._lost)
                return
        if error is not None:
            self._lost(error)
        else:
            self._sink.end()

    def _lost(self, error: OSError) -> None:
        logger.warning("%s: connection to the host lost, taken as EOF: %s", self._name, error)
        self._sink.end()

    def _process_closed_input(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            logger.warning("%s: cannot write: %s", self._name, error)
        self._sink.close()
        self._redialler = None
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

    When the host goes away for good, or wants no such stream, the bytes are read and dropped: a
    closed pipe would kill the process with SIGPIPE, a full one would block it for ever.

    Args:
        name: Whose stream it is, for the log.
        source: Non-blocking descriptor to read.
        connection: Non-blocking connected stream socket; None when the host does not want it.
        owns_source: Close the source at its end.
        redialler: Gets a lost connection back.  None: a loss is final.
        tee: Gets a copy.
    """

    __slots__ = ("_copier", "_name", "_owns_source", "_reconnecting", "_sink", "_source")

    def __init__(
        self,
        name: str,
        source: int,
        connection: socket.socket | None,
        *,
        owns_source: bool,
        redialler: Redialler | None = None,
        tee: TeeLog | None = None,
    ) -> None:
        self._name = name
        self._source = source
        self._owns_source = owns_source
        self._reconnecting: ReconnectingSink | None = None
        self._sink: Sink = NullSink()
        if connection is not None and redialler is not None:
            self._sink = self._reconnecting = ReconnectingSink(connection, name, redialler)
        elif connection is not None:
            self._sink = SocketSink(connection, name)
        self._copier = Copier(source, self._sink, self._process_ended_output, self._host_lost, tee)

    def stop_reconnecting(self) -> None:
        """From now on a loss is final; may be called again, and after close()."""
        if self._reconnecting is not None:
            self._reconnecting.stop_reconnecting()

    def connection_lost(self) -> None:
        """See ReconnectingSink.connection_lost."""
        if self._reconnecting is not None:
            self._reconnecting.connection_lost()

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
        if self._reconnecting is not None and not await self._reconnecting.settled(stall_seconds):
            logger.warning(
                "%s: the host did not come back within %g s; output is lost",
                self._name,
                stall_seconds,
            )
            self._reconnecting.close()

    def close(self) -> None:
        """Close everything at once, but a connection that waits for the host to read the rest.

        May be called again.
        """
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
    """The streams of one process, which end together.

    Args:
        reconnect: How lost connections come back.  None: they don't.
        tee: Gets a copy of all output; owned from now on.
    """

    __slots__ = ("_input", "_outputs", "_reconnect", "_tee")

    def __init__(self, reconnect: Reconnect | None = None, tee: TeeLog | None = None) -> None:
        self._reconnect = reconnect
        self._tee = tee
        self._input: InputStream | None = None
        self._outputs: list[OutputStream] = []

    def set_input(self, name: str, connection: socket.socket, sink: Sink, port: int | None) -> None:
        """Take over connection and sink, and start copying; port: where to dial again."""
        self._input = InputStream(name, connection, sink, self._redialler(name, port))

    def add_output(
        self,
        name: str,
        source: int,
        connection: socket.socket | None,
        port: int | None,
        *,
        owns_source: bool,
    ) -> None:
        """Take over source and connection, and start copying; port: where to dial again."""
        output = OutputStream(
            name,
            source,
            connection,
            owns_source=owns_source,
            redialler=self._redialler(name, port),
            tee=self._tee,
        )
        self._outputs.append(output)

    def stop_reconnecting(self) -> None:
        """From now on a loss is final; may be called again."""
        if self._input is not None:
            self._input.stop_reconnecting()
        for output in self._outputs:
            output.stop_reconnecting()

    def connection_lost(self) -> None:
        """See to it whether the outputs are lost; an input notices by itself."""
        for output in self._outputs:
            output.connection_lost()

    async def finish(self, drain_seconds: float, stall_seconds: float) -> None:
        """End the input, and deliver the outputs side by side; when cancelled, close all."""
        self._close_input()
        try:
            await asyncio.gather(
                *(output.finish(drain_seconds, stall_seconds) for output in self._outputs)
            )
            if self._tee is not None:
                await self._tee.flush(stall_seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything at once; may be called again."""
        self._close_input()
        for output in self._outputs:
            output.close()
        if self._tee is not None:
            self._tee.close()

    def _close_input(self) -> None:
        if self._input is not None:
            self._input.close()

    def _redialler(self, name: str, port: int | None) -> Redialler | None:
        if self._reconnect is None or port is None:
            return None
        return Redialler(name, self._reconnect, port)
