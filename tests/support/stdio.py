"""A host's side of stdio, and processes to relay, for the tests of gcs.stdio."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import socket
import subprocess
from typing import TYPE_CHECKING

from gcs.stdio import ChildDescriptors, StdioSockets, TeeLog

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def open_descriptors() -> list[str]:
    """What this process has open, for comparison before and after a test."""
    names = []
    for number in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            names.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return names


def open_tee(path: Path) -> TeeLog:
    """A log in a file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    return TeeLog(os.open(path, flags, 0o666), os.fspath(path))


class Host:
    """The host's ends of the streams of one process, non-blocking."""

    def __init__(self, streams: str = "in out err") -> None:
        self.sockets = StdioSockets()
        self._ends: dict[str, socket.socket] = {}
        for stream in streams.split():
            near, far = socket.socketpair()
            near.setblocking(False)
            far.setblocking(False)
            setattr(self.sockets, f"std{stream}", near)
            self._ends[stream] = far

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._ends["in"], data)

    def end_input(self) -> None:
        self._ends["in"].shutdown(socket.SHUT_WR)

    async def receive(self, stream: str, size: int = 1 << 18) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._ends[stream], size)

    async def receive_exactly(self, stream: str, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.receive(stream, size - len(data))
            assert more, f"{stream} ended after {data!r}"
            data += more
        return data

    async def receive_until(self, stream: str, text: bytes) -> bytes:
        data = b""
        while text not in data:
            more = await self.receive(stream)
            assert more, f"{stream} ended after {data!r}"
            data += more
        return data

    async def receive_all(self, stream: str) -> bytes:
        """Everything up to EOF; then close, as the host does (spec 1.11)."""
        parts = []
        while part := await self.receive(stream):
            parts.append(part)
        self.close(stream)
        return b"".join(parts)

    async def hash_all(self, stream: str) -> str:
        """As receive_all(), for amounts too big to keep."""
        digest = hashlib.sha256()
        while part := await self.receive(stream):
            digest.update(part)
        self.close(stream)
        return digest.hexdigest()

    def close(self, stream: str) -> None:
        self._ends.pop(stream).close()

    def close_all(self) -> None:
        for stream in list(self._ends):
            self.close(stream)
        self.sockets.close()


class Process:
    """A child process whose exit can be awaited on the loop."""

    def __init__(
        self,
        arguments: Sequence[str],
        child: ChildDescriptors,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            arguments,
            stdin=child.stdin,
            stdout=child.stdout,
            stderr=child.stderr,
            env={**os.environ, **(environment or {})},
        )
        child.close()
        self._pidfd = os.pidfd_open(self._process.pid)

    def running(self) -> bool:
        return not select.select([self._pidfd], [], [], 0)[0]

    def kill(self) -> None:
        self._process.kill()

    async def exit_code(self) -> int:
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        loop.add_reader(self._pidfd, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        return self._process.wait()

    async def end(self) -> None:
        """Kill the process and wait for it, unless that has been done."""
        if self._process.returncode is None:
            self.kill()
            await self.exit_code()


def shell(script: str, child: ChildDescriptors, **environment: str) -> Process:
    return Process(["sh", "-c", script], child, environment)
