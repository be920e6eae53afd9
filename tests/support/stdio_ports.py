"""Ports of a host that goes away and comes back, for the tests of reconnecting streams."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from gcs.stdio import StdioPorts, StdioSockets, connect
from gcs.transport import UnixTransport
from uvm.listen import accept_connection

if TYPE_CHECKING:
    from collections.abc import Sequence

STDIN, STDOUT, STDERR = 11, 12, 13


class CountingTransport:
    """Unix sockets; says how often a port was dialled."""

    def __init__(self, prefix: str) -> None:
        self._transport = UnixTransport(prefix)
        self._changed = asyncio.Condition()
        self.dials: dict[int, int] = {}

    async def dial(self, port: int) -> socket.socket:
        self.dials[port] = self.dials.get(port, 0) + 1
        async with self._changed:
            self._changed.notify_all()
        return await self._transport.dial(port)

    async def dialled(self, port: int, more: int) -> None:
        """Wait for so many dials from now on."""
        wanted = self.dials.get(port, 0) + more
        async with self._changed:
            await self._changed.wait_for(lambda: self.dials[port] >= wanted)


class Connection:
    """The host's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def receive(self, size: int = 1 << 16) -> bytes:
        return await self._loop.sock_recv(self._socket, size)

    async def receive_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = await self.receive(size - len(data))
            assert more, f"ended after {len(data)} bytes"
            data += more
        return bytes(data)

    async def receive_all(self) -> bytes:
        """Everything up to EOF; then close."""
        data = bytearray()
        while more := await self.receive():
            data += more
        self.close()
        return bytes(data)

    def close(self) -> None:
        self._socket.close()


class Ports:
    """A host that listens on some ports for as long as it is there."""

    def __init__(self, directory: Path, ports: Sequence[int]) -> None:
        self._prefix = str(directory / "host")
        self._numbers = tuple(ports)
        self._listeners: dict[int, socket.socket] = {}
        self.transport = CountingTransport(self._prefix)
        self.numbers = StdioPorts(*(n if n in ports else None for n in (STDIN, STDOUT, STDERR)))
        self.listen()

    def listen(self) -> None:
        for number in self._numbers:
            listener = socket.socket(socket.AF_UNIX)
            listener.setblocking(False)
            listener.bind(f"{self._prefix}_{number}")
            listener.listen(8)
            self._listeners[number] = listener

    def vanish(self) -> None:
        """Nobody listens any more."""
        for number, listener in self._listeners.items():
            listener.close()
            Path(f"{self._prefix}_{number}").unlink()
        self._listeners.clear()

    async def dialled(self) -> StdioSockets:
        """The guest's ends of first connections."""
        return await connect(self.transport, self.numbers)

    async def accept(self, port: int) -> Connection:
        connection, _ = await accept_connection(self._listeners[port])
        return Connection(connection)
