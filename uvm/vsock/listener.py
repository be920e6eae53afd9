"""Streams that the host opens: ``CONNECT <port>`` on the device's unix socket.

Source: the convention of Firecracker's docs/vsock.md. The answer is ``OK <host port>``, the port
from which the guest sees the stream come; a closed socket means that nobody listens in the guest.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uvm.vsock.device import VsockDevice
    from uvm.vsock.loop import EventLoop

log = logging.getLogger(__name__)

LINE_LIMIT: Final = 32
LINE: Final = re.compile(rb"CONNECT ([0-9]{1,10})\r?\n")
PORT_LIMIT: Final = 0xFFFFFFFF

# When descriptors run out, accepting again at once would only spin.
ACCEPT_PAUSE: Final = 0.1


class HostListener:
    """Accepts hosts on a listening socket, which stays the caller's to close."""

    def __init__(self, loop: EventLoop, device: VsockDevice, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._device = device
        self._sock = sock
        self._listen()

    def _listen(self) -> None:
        self._loop.register(self._sock.fileno(), select.EPOLLIN, self._on_event)

    def _on_event(self, _events: int) -> None:
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("cannot accept a connection: %s", error)
            self._loop.unregister(self._sock.fileno())
            self._loop.call_later(ACCEPT_PAUSE, self._listen)
            return
        client.setblocking(False)
        Greeting(self._loop, self._device, client)


class Greeting:
    """A host that has connected and not yet said where to."""

    def __init__(self, loop: EventLoop, device: VsockDevice, sock: socket.socket) -> None:
        self._loop = loop
        self._device = device
        self._sock = sock
        self._line = b""
        loop.register(sock.fileno(), select.EPOLLIN, self._on_event)

    def _on_event(self, _events: int) -> None:
        """Read exactly the line: what follows it is the guest's."""
        try:
            ahead = self._sock.recv(LINE_LIMIT - len(self._line), socket.MSG_PEEK)
            end = ahead.find(b"\n") + 1
            self._line += os.read(self._sock.fileno(), end or len(ahead)) if ahead else b""
        except BlockingIOError:
            return
        except OSError as error:
            log.info("a host has left before its CONNECT: %s", error)
            self._loop.close(self._sock)
            return
        if end:
            self._connect()
        elif not ahead or len(self._line) >= LINE_LIMIT:
            log.info("instead of CONNECT <port> a host has sent %r", self._line)
            self._loop.close(self._sock)

    def _connect(self) -> None:
        match = LINE.fullmatch(self._line)
        if match is None or int(match[1]) > PORT_LIMIT:
            log.info("instead of CONNECT <port> a host has sent %r", self._line)
            self._loop.close(self._sock)
            return
        self._loop.unregister(self._sock.fileno())
        self._device.connect_guest(self._sock, int(match[1]))
