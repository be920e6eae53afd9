"""A sink whose connection is lost and dialled again, without a process behind it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.stdio import StdioPorts, reconnect as reconnect_module
from gcs.stdio.reconnect import (
    REPLAY_SIZE,
    Reconnect,
    Redialler,
    is_disconnect,
    limit_bytes_in_flight,
    peer_is_gone,
    replay_size,
)
from gcs.stdio.reconnecting_sink import ReconnectingSink
from gcs.transport import DialError

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 12


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


class Host:
    """A transport whose other ends the test holds; refuses while `refusals` are left."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.refusals = 0
        self.dials = 0
        self._changed = asyncio.Condition()

    def pair(self) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.ends.append(far)
        return near

    async def dial(self, port: int) -> socket.socket:
        assert port == PORT
        self.dials += 1
        async with self._changed:
            self._changed.notify_all()
        if self.refusals:
            self.refusals -= 1
            raise DialError("nobody listens")
        return self.pair()

    async def dialled(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.dials >= times)

    async def receive(self, size: int) -> bytes:
        """From the newest connection."""
        data = b""
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(self.ends[-1], size - len(data))
            assert more
            data += more
        return data

    async def receive_eof(self) -> None:
        assert await asyncio.get_running_loop().sock_recv(self.ends[-1], 1) == b""

    def drop(self) -> None:
        self.ends[-1].close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    for end in host.ends:
        end.close()


@pytest.fixture
def reconnect(host: Host) -> Reconnect:
    return Reconnect(host, StdioPorts(stdout=PORT))


@pytest.fixture
async def sink(host: Host, reconnect: Reconnect) -> ReconnectingSink:
    return ReconnectingSink(host.pair(), "stream", Redialler("stream", reconnect, PORT))


@pytest.fixture(autouse=True)
def sink_is_closed(sink: ReconnectingSink) -> Iterator[None]:
    yield
    sink.close()


class Broken(socket.socket):
    """A connection whose writes fail with an error of the test's choice."""

    number = 0

    def send(self, *arguments: object) -> int:
        raise OSError(self.number, os.strerror(self.number))


async def write_all(sink: ReconnectingSink, data: bytes) -> None:
    """Write as a copier does."""
    room = asyncio.Event()
    rest = memoryview(data)
    while rest := rest[sink.write(rest) :]:
        sink.when_writable(room.set)
        await room.wait()
        room.clear()
        sink.when_writable(None)


async def test_healthy_writes_pass_and_nothing_is_dialled(
    host: Host, sink: ReconnectingSink
) -> None:
    assert sink.write(b"one") == 3
    assert sink.write(memoryview(b"two")) == 3
    assert await host.receive(6) == b"onetwo"
    assert host.dials == 0


async def test_writing_resumes_after_a_drop_with_the_last_bytes_repeated(
    host: Host, sink: ReconnectingSink
) -> None:
    await write_all(sink, b"before ")
    assert await host.receive(7) == b"before "
    host.drop()
    assert sink.write(b"after") == 0
    await write_all(sink, b"after")
    assert await host.receive(12) == b"before after"
    assert host.dials == 1


async def test_bytes_taken_before_the_drop_and_never_read_are_sent_again(
    host: Host, sink: ReconnectingSink
) -> None:
    data = os.urandom(300_000)
    reading = asyncio.create_task(host.receive(295_000))
    await write_all(sink, data)
    assert await reading == data[:295_000]
    host.drop()
    await host.dialled(1)
    assert await host.receive(REPLAY_SIZE) == data[-REPLAY_SIZE:]


async def test_failed_dials_are_repeated(
    host: Host, sink: ReconnectingSink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host.refusals = 3
    sink.write(b"text")
    host.drop()
    await host.dialled(4)
    assert await host.receive(4) == b"text"
    lost, back = caplog.messages
    assert lost.startswith("stream: connection to the host lost, dialling again: ")
    assert back == "stream: connected to the host again"


async def test_a_connection_lost_while_bytes_are_repeated_is_no_loss(
    host: Host, sink: ReconnectingSink
) -> None:
    data = os.urandom(REPLAY_SIZE)
    reading = asyncio.create_task(host.receive(len(data)))
    await write_all(sink, data)
    assert await reading == data
    host.drop()
    await host.dialled(1)
    await host.receive(1000)
    host.drop()
    await host.dialled(2)
    assert await host.receive(len(data)) == data
    await write_all(sink, b"more")
    assert await host.receive(4) == b"more"


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN])
async def test_a_write_that_finds_the_host_gone_is_repeated(
    host: Host, reconnect: Reconnect, number: int
) -> None:
    broken = Broken(fileno=host.pair().detach())
    broken.number = number
    sink = ReconnectingSink(broken, "stream", Redialler("stream", reconnect, PORT))
    await write_all(sink, b"text")
    assert await host.receive(4) == b"text"
    sink.close()


async def test_other_errors_pass_through(host: Host, reconnect: Reconnect) -> None:
    broken = Broken(fileno=host.pair().detach())
    broken.number = errno.ENOBUFS
    sink = ReconnectingSink(broken, "stream", Redialler("stream", reconnect, PORT))
    with pytest.raises(OSError, match="No buffer space"):
        sink.write(b"text")
    sink.close()
    assert host.dials == 0


async def test_stopping_ends_a_redial_with_the_error_of_the_loss(
    host: Host, sink: ReconnectingSink
) -> None:
    host.refusals = 1_000_000
    host.drop()
    await host.dialled(2)
    told = asyncio.Event()
    assert sink.write(b"text") == 0
    sink.when_writable(told.set)
    sink.stop_reconnecting()
    await told.wait()
    with pytest.raises(ConnectionResetError):
        sink.write(b"text")
    sink.end()
    assert await sink.settled(10)


async def test_after_a_stop_a_loss_is_final(host: Host, sink: ReconnectingSink) -> None:
    sink.stop_reconnecting()
    assert sink.write(b"text") == 4
    host.drop()
    with pytest.raises(BrokenPipeError):
        sink.write(b"text")
    assert host.dials == 0


async def test_end_and_close_act_on_the_connection_in_use(
    host: Host, sink: ReconnectingSink
) -> None:
    host.drop()
    await host.dialled(1)
    await write_all(sink, b"text")
    sink.end()
    assert await host.receive(4) == b"text"
    await host.receive_eof()
    sink.close()
    with pytest.raises(BrokenPipeError):
        host.ends[-1].send(b"x")


async def test_closing_ends_a_redial(host: Host, sink: ReconnectingSink) -> None:
    host.refusals = 1_000_000
    host.drop()
    await host.dialled(2)
    sink.close()
    assert await sink.settled(10)
    async with asyncio.timeout(10):
        while any("redial" in task.get_name() for task in asyncio.all_tasks()):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_the_end_of_a_lost_stream_is_delivered_when_the_host_is_back(
    host: Host, sink: ReconnectingSink
) -> None:
    host.refusals = 3
    sink.write(b"last words")
    host.drop()
    await host.dialled(1)
    sink.end()
    assert not await sink.settled(0)
    assert await sink.settled(10)
    assert await host.receive(10) == b"last words"
    await host.receive_eof()


async def test_a_host_lost_after_the_end_with_bytes_unread_gets_them_again(
    host: Host, sink: ReconnectingSink
) -> None:
    sink.write(b"last words")
    sink.end()
    host.drop()
    await host.dialled(1)
    assert await host.receive(10) == b"last words"
    await host.receive_eof()


async def test_an_end_at_the_moment_the_bridge_is_lost_is_no_answer(
    host: Host, sink: ReconnectingSink
) -> None:
    sink.write(b"last words")
    sink.end()
    assert await host.receive(10) == b"last words"
    sink.connection_lost()
    host.drop()
    await host.dialled(1)
    assert await host.receive(10) == b"last words"
    await host.receive_eof()


async def test_an_end_just_before_the_bridge_is_lost_is_no_answer(
    host: Host, reconnect: Reconnect
) -> None:
    near = host.pair()
    sink = ReconnectingSink(near, "stream", Redialler("stream", reconnect, PORT))
    sink.write(b"last words")
    sink.end()
    assert await host.receive(10) == b"last words"
    host.drop()
    async with asyncio.timeout(10):
        while near.fileno() >= 0:  # noqa: ASYNC110 - the sink tells nobody
            await asyncio.sleep(0)
    assert host.dials == 0
    sink.connection_lost()
    await host.dialled(1)
    assert await host.receive(10) == b"last words"
    sink.close()


async def test_losing_the_bridge_alone_changes_nothing(host: Host, sink: ReconnectingSink) -> None:
    sink.connection_lost()
    sink.write(b"text")
    assert await host.receive(4) == b"text"
    assert host.dials == 0


async def test_a_host_that_half_closes_an_output_goes_on_getting_it(
    host: Host, sink: ReconnectingSink
) -> None:
    host.ends[-1].shutdown(socket.SHUT_WR)
    for _ in range(10):
        await asyncio.sleep(0)  # the loop notices
    sink.write(b"text")
    assert await host.receive(4) == b"text"
    assert host.dials == 0


async def test_data_of_the_host_on_an_output_is_ignored(
    host: Host, sink: ReconnectingSink, caplog: pytest.LogCaptureFixture
) -> None:
    host.ends[-1].send(b"?")
    while not caplog.messages:  # noqa: ASYNC110 - the sink tells nobody
        await asyncio.sleep(0)
    assert caplog.messages == ["stream: host sent data on an output stream"]
    sink.write(b"text")
    assert await host.receive(4) == b"text"


async def test_a_host_that_stays_has_closed_the_stream_on_purpose(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect_module, "_HOST_STAYED_SECONDS", 0.15)
    loop = asyncio.get_running_loop()
    connected_at = loop.time() - 60
    reconnect = Reconnect(host, StdioPorts(stdout=PORT), lambda: connected_at)
    sink = ReconnectingSink(host.pair(), "stream", Redialler("stream", reconnect, PORT))
    told = asyncio.Event()
    host.refusals = 1_000_000
    host.drop()
    assert sink.write(b"text") == 0
    sink.when_writable(told.set)
    await told.wait()
    with pytest.raises(BrokenPipeError):
        sink.write(b"text")
    assert host.dials >= 2
    sink.close()


async def test_a_host_that_came_back_with_the_stream_lost_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect_module, "_HOST_STAYED_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    state: dict[str, float | None] = {"since": None}
    reconnect = Reconnect(host, StdioPorts(stdout=PORT), lambda: state["since"])
    sink = ReconnectingSink(host.pair(), "stream", Redialler("stream", reconnect, PORT))
    sink.write(b"text")
    host.refusals = 4
    host.drop()
    loop.call_later(0.3, lambda: state.update(since=loop.time()))
    await host.dialled(1)
    assert state["since"] is not None, "dialled while the bridge was down"
    await host.dialled(5)
    assert await host.receive(4) == b"text"
    sink.close()


def test_only_three_errors_are_disconnects() -> None:
    for number in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        assert is_disconnect(OSError(number, "gone"))
        wrapped = GcsError("cannot write")
        wrapped.__cause__ = OSError(number, "gone")
        assert is_disconnect(wrapped)
    for number in (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ENOBUFS, errno.EBADF):
        assert not is_disconnect(OSError(number, "other"))
    assert not is_disconnect(GcsError("no cause"))
    assert not is_disconnect(None)


def test_asking_for_the_peer_tells_a_half_close_from_a_close() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    assert not peer_is_gone(near)
    far.shutdown(socket.SHUT_WR)
    assert not peer_is_gone(near)
    far.close()
    assert peer_is_gone(near)
    near.close()


def test_no_more_is_in_flight_than_is_repeated() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    limit_bytes_in_flight(near)
    for size in (1, 100, 5000, 1 << 20):
        held = 0
        try:
            while True:
                held += near.send(bytes(size))
        except BlockingIOError:
            pass
        assert 0 < held <= REPLAY_SIZE
        while held:
            held -= len(far.recv(1 << 20))
    near.close()
    far.close()


def test_more_is_repeated_where_more_is_in_flight() -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_VSOCK) as vsock:
        assert replay_size(unix) == REPLAY_SIZE
        on_hyper_v = os.path.isdir("/sys/bus/vmbus")
        assert replay_size(vsock) == (REPLAY_SIZE if on_hyper_v else 4 * REPLAY_SIZE)
