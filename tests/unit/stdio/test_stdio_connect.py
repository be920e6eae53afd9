"""Dialling the streams of a process, and the descriptors of a process without a relay."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.stdio import ChildDescriptors, PipeRelay, StdioPorts, StdioSockets, connect
from gcs.transport import DialError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


class Host:
    """A transport that remembers what was dialled, fails at one port and is silent at another."""

    def __init__(self, refused: int | None = None, silent: int | None = None) -> None:
        self.refused = refused
        self.silent = silent
        self.dialled: list[int] = []
        self.waiting = asyncio.Event()

    async def dial(self, port: int) -> socket.socket:
        self.dialled.append(port)
        if port == self.refused:
            raise DialError(f"cannot connect to port {port}")
        if port == self.silent:
            self.waiting.set()
            await asyncio.Event().wait()
        return socket.socket(socket.AF_UNIX)


async def test_the_order_is_in_out_err() -> None:
    host = Host()
    sockets = await connect(host, StdioPorts(stdin=30, stdout=10, stderr=20))
    assert host.dialled == [30, 10, 20]
    assert None not in (sockets.stdin, sockets.stdout, sockets.stderr)
    sockets.close()
    sockets.close()


async def test_only_what_is_wanted_is_dialled() -> None:
    host = Host()
    sockets = await connect(host, StdioPorts(stdout=10))
    assert host.dialled == [10]
    assert sockets.stdin is None
    assert sockets.stderr is None
    sockets.close()


async def test_a_failure_closes_those_already_open() -> None:
    host = Host(refused=12)
    with pytest.raises(DialError, match="port 12"):
        await connect(host, StdioPorts(10, 11, 12))
    assert host.dialled == [10, 11, 12]


async def test_cancelling_closes_those_already_open() -> None:
    host = Host(silent=12)
    task = asyncio.create_task(connect(host, StdioPorts(10, 11, 12)))
    await host.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_sockets_become_blocking_descriptors_of_the_process() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    sockets = StdioSockets(stdin=near)
    child = ChildDescriptors.of_sockets(sockets)
    assert os.get_blocking(child.stdin)
    assert not os.get_inheritable(child.stdin)
    sockets.close()
    far.send(b"x")
    assert os.read(child.stdin, 9) == b"x"
    assert os.readlink(f"/proc/self/fd/{child.stdout}") == "/dev/null"
    assert os.readlink(f"/proc/self/fd/{child.stderr}") == "/dev/null"
    child.close()
    child.close()
    assert far.recv(1) == b""
    far.close()


def test_the_pipe_ends_of_a_process_are_blocking_and_not_inherited() -> None:
    relay = PipeRelay.create("process")
    for descriptor in (relay.child.stdin, relay.child.stdout, relay.child.stderr):
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
        assert os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)
    relay.close()
    relay.close()


async def test_a_stream_declared_unwanted_cannot_be_attached_later() -> None:
    relay = PipeRelay.create("process", StdioPorts(stdout=10))
    near, far = socket.socketpair()
    sockets = StdioSockets(stderr=near)
    with pytest.raises(ValueError, match="process has no pipe for stderr"):
        relay.attach(sockets)
    sockets.close()
    far.close()
    relay.close()
