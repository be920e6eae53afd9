"""Relay of a process without a terminal.

A process in a container gets pipes and not the sockets: a socket can't be opened again through
/dev/stdout (spec 4.9).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from gcs.linux.pipe import set_pipe_size
from gcs.stdio.child import ChildDescriptors, open_null
from gcs.stdio.sink import DescriptorSink
from gcs.stdio.sockets import StdioPorts
from gcs.stdio.streams import DRAIN_SECONDS, STALL_SECONDS, Streams

if TYPE_CHECKING:
    import socket

    from gcs.stdio.reconnect import Reconnect
    from gcs.stdio.sockets import StdioSockets
    from gcs.stdio.tee_log import TeeLog

# With the kernel's 64 KiB the two sides of a busy pipe wait for each other too often; memory is
# taken only while bytes lie in the pipe.
PIPE_SIZE = 256 * 1024


class PipeRelay:
    """Owns the pipes of one process and, once attached, its connections to the host.

    Attributes:
        child: What the process is to be started with; close it when the process is started.
    """

    __slots__ = ("_name", "_stderr", "_stdin", "_stdout", "_streams", "child")

    def __init__(self, name: str, child: ChildDescriptors, ours: tuple[int, int, int]) -> None:
        """Take over descriptors; use create().  ours: our ends of the pipes, -1 where is none."""
        self.child = child
        self._name = name
        self._stdin, self._stdout, self._stderr = ours
        self._streams = Streams()

    @classmethod
    def create(cls, name: str, ports: StdioPorts | None = None) -> PipeRelay:
        """Make the descriptors of a process that does not exist yet.

        name: whose streams they are, for the log.
        ports: which streams the host wants; the others are /dev/null for the process.  None: not
            known yet (`runc create`), so there are pipes for all, and attach() makes those that
            turn out not to be wanted behave like /dev/null.

        Raises OSError (EMFILE); then nothing stays open.
        """
        with contextlib.ExitStack() as undo:
            child_in, our_in = _input(undo, ports is None or ports.stdin is not None)
            our_out, child_out = _output(undo, ports is None or ports.stdout is not None)
            our_err, child_err = _output(undo, ports is None or ports.stderr is not None)
            undo.pop_all()
        child = ChildDescriptors(child_in, child_out, child_err)
        return cls(name, child, (our_in, our_out, our_err))

    def attach(
        self,
        sockets: StdioSockets,
        *,
        reconnect: Reconnect | None = None,
        tee: TeeLog | None = None,
    ) -> None:
        """Take over the connections and start copying; to be called once, on the running loop.

        A stream that is not wanted: the process reads EOF, or what it writes is dropped.

        reconnect: how lost connections come back.  None: a loss is final.
        tee: gets a copy of stdout and stderr, wanted or not; owned from now on.

        Raises ValueError, and takes nothing, for a connection to a stream that create() was told
        is not wanted.
        """
        self._check(sockets)
        ports = StdioPorts() if reconnect is None else reconnect.ports
        self._streams = Streams(reconnect, tee)
        connection, sockets.stdin = sockets.stdin, None
        descriptor, self._stdin = self._stdin, -1
        if connection is not None:
            sink = DescriptorSink(descriptor, owned=True)
            self._streams.set_input(f"{self._name} stdin", connection, sink, ports.stdin)
        elif descriptor >= 0:
            os.close(descriptor)
        connection, sockets.stdout = sockets.stdout, None
        descriptor, self._stdout = self._stdout, -1
        self._attach_output("stdout", descriptor, connection, ports.stdout)
        connection, sockets.stderr = sockets.stderr, None
        descriptor, self._stderr = self._stderr, -1
        self._attach_output("stderr", descriptor, connection, ports.stderr)

    def stop_reconnecting(self) -> None:
        """From now on the loss of a connection is final: the process was killed, or is deleted.

        Output that waits for the host is dropped, input is at its end.  May be called again.
        """
        self._streams.stop_reconnecting()

    def connection_lost(self) -> None:
        """See to it whether these connections are lost, too; to be called when the bridge is."""
        self._streams.connection_lost()

    async def finish(
        self, drain_seconds: float = DRAIN_SECONDS, stall_seconds: float = STALL_SECONDS
    ) -> None:
        """Deliver what the process wrote before its exit, and end the connections (spec 4.9).

        They are closed when the host has closed its ends, which nobody waits for here.

        drain_seconds: for how long a background child that holds stdout or stderr open is still
            served.  Afterwards it can go on writing, to nowhere, until close().
        stall_seconds: after so long without a byte taken by the host, or without the host being
            there, it is given up, with a log line.

        To be called after attach(): without connections nothing is delivered.  When cancelled,
        everything is closed at once.
        """
        await self._streams.finish(drain_seconds, stall_seconds)

    def close(self) -> None:
        """Close everything at once, attached or not; may be called again.

        Only a connection the host has still to read from stays, until it has, or got lost.
        """
        self.child.close()
        self._streams.close()
        self._streams.stop_reconnecting()
        for descriptor in (self._stdin, self._stdout, self._stderr):
            if descriptor >= 0:
                os.close(descriptor)
        self._stdin = self._stdout = self._stderr = -1

    def _check(self, sockets: StdioSockets) -> None:
        for stream, descriptor, connection in (
            ("stdin", self._stdin, sockets.stdin),
            ("stdout", self._stdout, sockets.stdout),
            ("stderr", self._stderr, sockets.stderr),
        ):
            if connection is not None and descriptor < 0:
                raise ValueError(f"{self._name} has no pipe for {stream}")

    def _attach_output(
        self, stream: str, descriptor: int, connection: socket.socket | None, port: int | None
    ) -> None:
        if descriptor >= 0:
            name = f"{self._name} {stream}"
            self._streams.add_output(name, descriptor, connection, port, owns_source=True)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    # Refused when the user's pipes are many and big; it works as well with less.
    with contextlib.suppress(PermissionError):
        set_pipe_size(writer, PIPE_SIZE)
    return reader, writer


def _input(undo: contextlib.ExitStack, wanted: bool) -> tuple[int, int]:
    if not wanted:
        null = open_null(os.O_RDONLY)
        undo.callback(os.close, null)
        return null, -1
    reader, writer = _pipe(undo)
    os.set_blocking(writer, False)
    return reader, writer


def _output(undo: contextlib.ExitStack, wanted: bool) -> tuple[int, int]:
    if not wanted:
        null = open_null(os.O_WRONLY)
        undo.callback(os.close, null)
        return -1, null
    reader, writer = _pipe(undo)
    os.set_blocking(reader, False)
    return reader, writer
