"""The vsock device as a process, and the hosts around it on unix sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from tests.support.vsock_driver import PATIENCE, Guest, Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PORT = 7000
LARGE = 3 << 20


class Device:
    """The device process and the host's end of its sockets."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket = directory / "vhost-user"
        self.uds = directory / "vsock"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvm.vsock"),
                *("--socket", str(self.socket), "--uds", str(self.uds), *options),
            ],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.keep = "--keep" in options
        self.sockets: list[socket.socket] = []
        self.guests: list[Guest] = []

    def guest(
        self, *, features: int = 0, one_descriptor: bool = False, start: bool = True
    ) -> Guest:
        guest = Guest(self.socket, features=features, one_descriptor=one_descriptor)
        self.guests.append(guest)
        guest.negotiate()
        if start:
            guest.start()
        return guest

    def listen(self, port: int = PORT, backlog: int = 100) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.settimeout(PATIENCE)
        listener.bind(f"{self.uds}_{port}")
        listener.listen(backlog)
        self.sockets.append(listener)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        self.sockets.append(sock)
        return sock

    def dial(self, greeting: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.uds))
        sock.sendall(greeting)
        self.sockets.append(sock)
        return sock

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for guest in self.guests:
            guest.close()
        if self.keep or not self.guests:
            self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


def connected(device: Device, guest: Guest, port: int = PORT) -> tuple[Stream, socket.socket]:
    """A stream opened by the guest: its two ends."""
    listener = device.listen(port)
    stream = guest.connect(port)
    return stream, device.accept(listener)


def receive(sock: socket.socket, size: int) -> bytes:
    """Read exactly ``size`` bytes, or up to the end of file."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def assert_serves(device: Device, guest: Guest, port: int) -> None:
    """The device works: a new stream carries data both ways."""
    stream, host = connected(device, guest, port)
    stream.write(b"question")
    assert receive(host, 8) == b"question"
    host.sendall(b"answer")
    assert stream.read(6) == b"answer"
