"""Streams of a container's init over all connections that carry them (spec 1.10, 1.11).

When a host takes over, it listens on the same ports again. The agent dials them, repeats what it
last sent, since that may be lost, and goes on.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Coroutine
from typing import Any, Final

from gcs.protocol.requests import VsockStdioRelaySettings
from uvm.bridge.client import GuestClient
from uvm.errors import UvmError
from uvm.listen import HostPorts, PortListener
from uvm.process import Completed, Process
from uvm.stdio import StdioSockets

_CHUNK: Final = 1 << 18


def join_replayed(parts: list[bytes]) -> bytes:
    """Return a stream, given what each connection carried of it.

    Each part goes on where those before it end, or repeats their end first; a part that was cut
    off early may be a repetition as a whole. The longest repetition that is possible counts.
    """
    joined = b""
    for part in parts:
        at = _repeated_from(joined, part)
        if at + len(part) > len(joined):
            joined = joined[:at] + part
    return joined


def _repeated_from(joined: bytes, part: bytes) -> int:
    """Return the first position from where on the two agree as far as both go."""
    head = part[:64]
    at = joined.find(head)
    while at >= 0:
        if part.startswith(joined[at:]) or joined.startswith(part, at):
            return at
        at = joined.find(head, at + 1)
    for at in range(max(0, len(joined) - len(head)), len(joined)):
        if head.startswith(joined[at:]):
            return at
    return len(joined)


class RecoverableOutput:
    """What a process writes to one stream.

    Args:
        connected: The first connection.
        port: The port it came on.
    """

    def __init__(self, connected: socket.socket, port: int) -> None:
        self.port = port
        self._parts: list[bytearray] = []
        self._ended = asyncio.Event()
        self._news = asyncio.Event()
        self._undo = contextlib.ExitStack()
        self._task = asyncio.create_task(self._read(self._undo.enter_context(connected)))

    @property
    def received(self) -> bytes:
        """What there is so far."""
        return join_replayed([bytes(part) for part in self._parts])

    @property
    def connections(self) -> int:
        """How many connections have carried it."""
        return len(self._parts)

    async def read_until(self, text: bytes) -> bytes:
        """Wait until a text has come, and return what there is then.

        Raises:
            UvmError: The stream has ended without it.
        """
        while text not in self.received:
            if self._ended.is_set():
                raise UvmError(f"the stream has ended without {text!r}")
            self._news.clear()
            await self._news.wait()
        return self.received

    async def read_all(self) -> bytes:
        """Wait for the end of the stream and return all of it."""
        await self._ended.wait()
        return self.received

    async def lose(self) -> None:
        """Cut the connection off, with what has not been read of it, and stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._undo.close()

    def listen_again(self, host: HostPorts) -> None:
        """Take the connections that come now; to be called after :meth:`lose`.

        Raises:
            ListenError: The port is taken.
        """
        listener = self._undo.enter_context(contextlib.closing(host.listen(self.port)))
        self._task = asyncio.create_task(self._accept(listener))

    async def _accept(self, listener: PortListener) -> None:
        # An agent that doubts whether the last end has arrived comes once more.
        while True:
            await self._read(await listener.accept())

    async def _read(self, connected: socket.socket) -> None:
        part = bytearray()
        self._parts.append(part)
        loop = asyncio.get_running_loop()
        with connected, contextlib.suppress(ConnectionError):
            while chunk := await loop.sock_recv(connected, _CHUNK):
                part += chunk
                self._news.set()
            self._ended.set()
            self._news.set()


class RecoverableInput:
    """The way to a process's standard input. What is on its way when it is lost is lost.

    Args:
        connected: The first connection.
        port: The port it came on.
    """

    def __init__(self, connected: socket.socket, port: int) -> None:
        self.port = port
        self._connected: socket.socket | None = connected
        self._available = asyncio.Event()
        self._available.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: PortListener | None = None

    async def write(self, data: bytes) -> None:
        """Send data, as soon as there is a connection.

        Raises:
            OSError: It was lost meanwhile, or the process has closed its end.
        """
        connected = await self._wait()
        sending = self._spawn(asyncio.get_running_loop().sock_sendall(connected, data))
        try:
            await asyncio.wait({sending})
        finally:
            sending.cancel()
        if sending.cancelled():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was lost on purpose")
        sending.result()

    async def end(self) -> None:
        """Say that nothing more will come."""
        (await self._wait()).shutdown(socket.SHUT_WR)

    async def lose(self) -> None:
        """Cut the connection off, and stop listening."""
        self._available.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connected is not None:
            self._connected.close()
            self._connected = None
        if self._listener is not None:
            self._listener.close()

    def listen_again(self, host: HostPorts) -> None:
        """Take the connection that comes now; see :meth:`RecoverableOutput.listen_again`."""
        self._listener = host.listen(self.port)
        self._spawn(self._accept(self._listener))

    async def _accept(self, listener: PortListener) -> None:
        self._connected = await listener.accept_once()
        self._available.set()

    async def _wait(self) -> socket.socket:
        while self._connected is None:
            await self._available.wait()
        return self._connected

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class RecoverableProcess(Process):
    """The init of a container, whose streams survive a change of the host.

    Its output is read all the time, whether somebody asks for it or not.

    Args:
        client: The agent.
        container_id: Its container.
        pid: Its id in the VM.
        stdio: Connected streams; they belong to the process object now.
        ports: Where they came from.

    Attributes:
        stdin: Each of these is ``None`` when it was not asked for; likewise stdout, stderr.
        finished: Whether its streams were given up.
    """

    def __init__(
        self,
        client: GuestClient,
        container_id: str,
        pid: int,
        stdio: StdioSockets,
        ports: VsockStdioRelaySettings,
    ) -> None:
        super().__init__(client, container_id, pid, StdioSockets())
        self.stdin: RecoverableInput | None = None
        self.stdout: RecoverableOutput | None = None
        self.stderr: RecoverableOutput | None = None
        if stdio.stdin is not None:
            self.stdin = RecoverableInput(stdio.stdin, ports.std_in)
        if stdio.stdout is not None:
            self.stdout = RecoverableOutput(stdio.stdout, ports.std_out)
        if stdio.stderr is not None:
            self.stderr = RecoverableOutput(stdio.stderr, ports.std_err)
        self.finished = False

    async def lose_streams(self) -> None:
        """Cut all streams off."""
        await asyncio.gather(*(stream.lose() for stream in self._streams()))

    def listen_again(self, host: HostPorts) -> None:
        """Open the ports of all streams again."""
        if not self.finished:
            for stream in self._streams():
                stream.listen_again(host)

    async def communicate(self, data: bytes = b"") -> Completed:
        """Feed stdin, close it, collect the output and the exit code."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await self.stdin.write(data)
                await self.stdin.end()
        return await self.collect()

    async def collect(self) -> Completed:
        """Wait for the end, and return the output and the exit code."""
        exit_code = await self.wait()
        stdout = b"" if self.stdout is None else await self.stdout.read_all()
        stderr = b"" if self.stderr is None else await self.stderr.read_all()
        await self.finish()
        return Completed(exit_code, stdout, stderr)

    async def finish(self) -> None:
        """Give the streams up."""
        self.finished = True
        await self.lose_streams()

    def _streams(self) -> list[RecoverableInput | RecoverableOutput]:
        streams = (self.stdin, self.stdout, self.stderr)
        return [stream for stream in streams if stream is not None]
