"""Relay of a process with a terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gcs.linux import tty
from gcs.stdio.sink import DescriptorSink
from gcs.stdio.sockets import StdioPorts
from gcs.stdio.streams import DRAIN_SECONDS, STALL_SECONDS, Streams

if TYPE_CHECKING:
    from gcs.stdio.reconnect import Reconnect
    from gcs.stdio.sockets import StdioSockets
    from gcs.stdio.tee_log import TeeLog


class TtyRelay:
    """Owns the master of a terminal and, once attached, the connections to the host.

    stdin goes to the terminal and what the terminal shows goes to stdout; stderr is not used, but
    ended with the others.  EOF from the host ends the input and is not passed on: a terminal has
    no half-close (spec 4.9).

    Args:
        name: Whose terminal it is, for the log.
        master: Descriptor of the master; becomes non-blocking.
    """

    __slots__ = ("_master", "_name", "_sockets", "_streams")

    def __init__(self, name: str, master: int) -> None:
        os.set_blocking(master, False)
        self._name = name
        self._master = master
        self._streams = Streams()
        self._sockets: StdioSockets | None = None

    def attach(
        self,
        sockets: StdioSockets,
        *,
        reconnect: Reconnect | None = None,
        tee: TeeLog | None = None,
    ) -> None:
        """Take over the connections and start copying; see PipeRelay.attach()."""
        self._sockets = sockets
        ports = StdioPorts() if reconnect is None else reconnect.ports
        self._streams = Streams(reconnect, tee)
        connection, sockets.stdout = sockets.stdout, None
        name = f"{self._name} terminal output"
        self._streams.add_output(name, self._master, connection, ports.stdout, owns_source=False)
        connection, sockets.stdin = sockets.stdin, None
        if connection is not None:
            sink = DescriptorSink(self._master, owned=False)
            name = f"{self._name} terminal input"
            self._streams.set_input(name, connection, sink, ports.stdin)

    def stop_reconnecting(self) -> None:
        """See PipeRelay.stop_reconnecting()."""
        self._streams.stop_reconnecting()

    def connection_lost(self) -> None:
        """See PipeRelay.connection_lost()."""
        self._streams.connection_lost()

    def resize(self, rows: int, columns: int) -> None:
        """Set the window size in characters; nothing happens when the terminal is closed.

        Raises ValueError when a number is not in 0 to 65535.
        """
        if self._master >= 0:
            tty.set_window_size(self._master, rows, columns)

    async def finish(
        self, drain_seconds: float = DRAIN_SECONDS, stall_seconds: float = STALL_SECONDS
    ) -> None:
        """Deliver what the terminal shows, and close everything; see PipeRelay.finish().

        A background child that holds the terminal open after `drain_seconds` is hung up.
        """
        try:
            await self._streams.finish(drain_seconds, stall_seconds)
        finally:
            self._release()

    def close(self) -> None:
        """Close everything at once, attached or not; see PipeRelay.close()."""
        self._release()
        self._streams.stop_reconnecting()

    def _release(self) -> None:
        self._streams.close()
        if self._sockets is not None:
            self._sockets.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
