"""The host's end of an output stream, after the last byte."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gcs.stdio.sink import SocketSink


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, host = socket.socketpair()
    ours.setblocking(False)
    host.setblocking(False)
    yield ours, host
    ours.close()
    host.close()


async def read_event(host: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(host, 100)


async def test_the_connection_stays_until_the_host_closes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, host = pair
    sink = SocketSink(ours, "stream")
    sink.write(b"last")
    sink.end()
    assert await read_event(host) == b"last"
    assert await read_event(host) == b""
    assert ours.fileno() >= 0
    host.close()
    async with asyncio.timeout(10):
        while ours.fileno() >= 0:  # noqa: ASYNC110 - the sink tells nobody
            await asyncio.sleep(0)


async def test_a_host_that_does_not_close_is_left_behind(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, host = pair
    sink = SocketSink(ours, "stream", linger_seconds=0.05)
    sink.end()
    assert await read_event(host) == b""
    async with asyncio.timeout(10):
        while ours.fileno() >= 0:  # noqa: ASYNC110 - the sink tells nobody
            await asyncio.sleep(0)
    assert caplog.messages == ["stream: the host did not close its end within 0.05 s"]
