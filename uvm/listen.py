"""Ports of the host that the guest dials.

A user-space vsock device hands a guest's connection to port P to the unix socket ``<uds>_<P>``;
with the kernel's vhost-vsock the host listens on AF_VSOCK itself.
"""

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any, Final, Protocol

from uvm.errors import ListenError

#: Where an agent dials the bridge (spec 1.1).
BRIDGE_PORT: Final = 0x4000_0000


async def accept_connection(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Wait for a connection; whoever gives up waiting leaves it in the queue.

    The loop's own ``sock_accept`` may take a connection for a caller that has just given up
    (Python 3.11), and nobody ever closes it.

    Args:
        listener: Listening, non-blocking socket.

    Returns:
        The connection, non-blocking, and the address of the other side.
    """
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            connected, address = listener.accept()
            connected.setblocking(False)
            return connected, address
        readable = asyncio.Event()
        descriptor = listener.fileno()  # it may have been closed at the end
        loop.add_reader(descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)


class PortListener:
    """A listening port.

    Args:
        listener: Bound, listening, non-blocking socket.
        port: Its number.
        path: Unix socket to remove at the end, if any.
        guest_cid: With AF_VSOCK: the only guest to accept.
    """

    def __init__(
        self,
        listener: socket.socket,
        port: int,
        *,
        path: Path | None = None,
        guest_cid: int | None = None,
    ) -> None:
        self._listener = listener
        self._path = path
        self._guest_cid = guest_cid
        self.port = port

    async def accept(self) -> socket.socket:
        """Wait for a connection; returns a non-blocking socket."""
        while True:
            connected, address = await accept_connection(self._listener)
            if self._guest_cid is None or address[0] == self._guest_cid:
                return connected
            connected.close()

    async def accept_once(self) -> socket.socket:
        """Wait for a connection and stop listening, as a real host does (spec 1.11)."""
        try:
            return await self.accept()
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


class HostPorts(Protocol):
    """Where the guest's connections arrive."""

    def listen(self, port: int) -> PortListener:
        """Listen on a port.

        Raises:
            ListenError: It is taken, or listening is not allowed.
        """
        ...


class UnixHostPorts:
    """Ports as unix sockets ``<uds>_<port>``.

    Args:
        uds: The path the user-space device was given.
    """

    def __init__(self, uds: Path) -> None:
        self.uds = uds

    def listen(self, port: int) -> PortListener:
        """Listen on a port; see :class:`HostPorts`."""
        path = self.uds.with_name(f"{self.uds.name}_{port}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise ListenError(f"can't listen on {path}: {error.strerror or error}") from error
        listener.setblocking(False)
        return PortListener(listener, port, path=path)

    async def connect(self, port: int) -> socket.socket:
        """Connect to a port that a program in the guest listens on.

        Raises:
            ConnectionRefusedError: Nobody listens there.
        """
        loop = asyncio.get_running_loop()
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(connected.close)
            await loop.sock_connect(connected, os.fspath(self.uds))
            await loop.sock_sendall(connected, f"CONNECT {port}\n".encode())
            answer = b""
            # Byte by byte: what follows the line belongs to the caller.
            while not answer.endswith(b"\n"):
                byte = await loop.sock_recv(connected, 1)
                if not byte:
                    raise ConnectionRefusedError(
                        errno.ECONNREFUSED, f"no program in the VM listens on port {port}"
                    )
                answer += byte
            if not answer.startswith(b"OK "):
                raise ConnectionRefusedError(errno.ECONNREFUSED, answer.decode("utf-8", "replace"))
            undo.pop_all()
        return connected


class VsockHostPorts:
    """Ports of AF_VSOCK, for VMs whose device is the kernel's vhost-vsock.

    Args:
        guest_cid: The VM whose connections are meant; others are refused.
    """

    def __init__(self, guest_cid: int) -> None:
        self.guest_cid = guest_cid

    def listen(self, port: int) -> PortListener:
        """Listen on a port; see :class:`HostPorts`."""
        try:
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError as error:
            raise ListenError(f"no vsock on this machine: {error.strerror}") from error
        try:
            listener.bind((socket.VMADDR_CID_ANY, port))
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise ListenError(f"can't listen on vsock port {port}: {error.strerror}") from error
        listener.setblocking(False)
        return PortListener(listener, port, guest_cid=self.guest_cid)
