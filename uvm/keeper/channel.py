"""Messages, with file descriptors, between a command and a keeper."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from uvm.errors import UvmError, VmNotFoundError
from uvm.keeper.messages import Answer, Request

#: Longest message; a DumpStacks answer of the agent has up to 64 KiB.
_LONGEST: Final = 1 << 18
_MOST_DESCRIPTORS: Final = 3

Incoming = TypeVar("Incoming")


class ChannelClosedError(UvmError):
    """The other side is gone."""


class Channel(Generic[Incoming]):
    """One end of a connection.

    Args:
        connected: Socket of type ``SOCK_SEQPACKET``.
        incoming: Decoder of the other side's messages.
    """

    def __init__(
        self, connected: socket.socket, incoming: "msgspec.json.Decoder[Incoming]"
    ) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._incoming = incoming

    async def send(self, message: Request | Answer, descriptors: Sequence[int] = ()) -> None:
        """Send a message; descriptors are copied, not given away.

        Raises:
            ChannelClosedError: The other side is gone.
        """
        data = msgspec.json.encode(message)
        while True:
            try:
                socket.send_fds(self._socket, [data], list(descriptors))
            except BlockingIOError:
                await self._ready(writing=True)
            except OSError as error:
                raise ChannelClosedError(f"connection lost: {error.strerror}") from error
            else:
                return

    async def receive(self) -> tuple[Incoming, list[int]]:
        """Wait for a message; its descriptors belong to the caller.

        Raises:
            ChannelClosedError: The other side is gone.
        """
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket, _LONGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await self._ready(writing=False)
                continue
            except OSError as error:
                raise ChannelClosedError(f"connection lost: {error.strerror}") from error
            if not data:
                raise ChannelClosedError("the other side closed the connection")
            return self._incoming.decode(data), descriptors

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    async def _ready(self, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer)
            if writing
            else (loop.add_reader, loop.remove_reader)
        )
        add(self._socket, _resolve, ready)
        try:
            await ready
        finally:
            remove(self._socket)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def connect(path: Path, name: str) -> Channel[Answer]:
    """Connect a command to a keeper.

    Raises:
        VmNotFoundError: None listens there.
    """
    with contextlib.ExitStack() as undo:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(connected.close)
        try:
            connected.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise VmNotFoundError(
                f"no VM named {name} is running; `uvm boot --name {name}` starts one"
            ) from None
        undo.pop_all()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
    return Channel(connected, msgspec.json.Decoder(Answer))


def listen(path: Path) -> socket.socket:
    """Return a socket that commands can connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def accepted(connected: socket.socket) -> Channel[Request]:
    """Return the keeper's end of a connection."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
    return Channel(connected, msgspec.json.Decoder(Request))
