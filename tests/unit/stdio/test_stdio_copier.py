"""The copier between a pipe and any sink: order, flow control, accounting, replacement."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from gcs.stdio.copier import CHUNK, Copier
from gcs.stdio.sink import NullSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gcs.stdio.sink import Sink


class Collector:
    """A sink that takes what the test allows."""

    def __init__(self, room: int = 0) -> None:
        self.taken = bytearray()
        self.room = room
        self.error: OSError | None = None
        self.waiting: Callable[[], None] | None = None
        self.full = asyncio.Event()

    def write(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        amount = min(self.room, len(data))
        self.taken += data[:amount]
        self.room -= amount
        return amount

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        self.waiting = callback
        if callback is None:
            self.full.clear()
        else:
            self.full.set()

    def allow(self, room: int) -> None:
        """Make room, as a socket whose peer reads, or a new connection in place of a lost one."""
        self.room += room
        if self.waiting is not None:
            self.waiting()

    def end(self) -> None:
        pass

    async def closed(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pipe:
    """A pipe with a copier at its reading end."""

    def __init__(self, sink: Sink) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.ends: list[OSError | None] = []
        self.failures: list[OSError] = []
        self.copier = Copier(self.reader, sink, self.ends.append, self._failed)

    def _failed(self, error: OSError) -> None:
        self.failures.append(error)
        self.copier.replace_sink(NullSink())

    def end(self) -> None:
        os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        self.copier.stop()
        os.close(self.reader)
        if self.writer >= 0:
            self.end()


@contextlib.contextmanager
def pipe_to(sink: Sink) -> Iterator[Pipe]:
    pipe = Pipe(sink)
    try:
        yield pipe
    finally:
        pipe.close()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.binary(min_size=1, max_size=5000), max_size=12),
    st.lists(st.integers(min_value=1, max_value=6000), max_size=30),
)
def test_any_sequence_of_writes_and_room_gives_the_same_bytes(
    writes: list[bytes], rooms: list[int]
) -> None:
    async def scenario() -> None:
        sink = Collector()
        with pipe_to(sink) as pipe:
            for data in writes:
                os.write(pipe.writer, data)
            pipe.end()
            for room in rooms:
                await asyncio.sleep(0)
                sink.allow(room)
            sink.allow(1 << 20)
            assert await pipe.copier.ended(10)
            assert bytes(sink.taken) == b"".join(writes)
            assert pipe.ends == [None]

    asyncio.run(scenario())


async def test_a_full_sink_holds_at_most_one_chunk() -> None:
    sink = Collector()
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, bytes(60_000))
        await sink.full.wait()
        total = 60_000
        with contextlib.suppress(BlockingIOError):
            while total < 4 * CHUNK:
                total += os.write(pipe.writer, bytes(4096))
        assert total < 2 * CHUNK
        await asyncio.sleep(0)
        assert not sink.taken


async def test_deliver_waits_for_what_is_in_the_pipe_and_in_hand() -> None:
    sink = Collector(room=100)
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, bytes(1000))
        await sink.full.wait()
        os.write(pipe.writer, bytes(500))
        delivery = asyncio.create_task(pipe.copier.deliver(10))
        await asyncio.sleep(0)
        sink.allow(1399)
        await sink.full.wait()
        assert len(sink.taken) == 1499
        assert not delivery.done()
        os.write(pipe.writer, bytes(300))  # too late to be waited for
        sink.allow(1)
        assert await delivery == 0
        assert not await pipe.copier.ended(0)


async def test_deliver_gives_a_silent_sink_up_and_says_how_much_was_lost() -> None:
    sink = Collector(room=100)
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, bytes(1000))
        assert await pipe.copier.deliver(0.02) == 900


async def test_a_failing_sink_is_replaced_and_the_writer_goes_on() -> None:
    sink = Collector(room=10)
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, b"first line")
        assert await pipe.copier.deliver(10) == 0
        sink.error = BrokenPipeError("gone")
        for _ in range(40):
            os.write(pipe.writer, bytes(4096))
            await asyncio.sleep(0)
        pipe.end()
        assert await pipe.copier.deliver(10) == 0
        assert await pipe.copier.ended(10)
        assert pipe.failures == [sink.error]
        assert pipe.ends == [None]
        assert bytes(sink.taken) == b"first line"


async def test_a_sink_failing_with_bytes_in_hand_is_replaced_too() -> None:
    sink = Collector(room=10)
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, bytes(1000))
        await sink.full.wait()
        sink.error = ConnectionResetError("gone")
        sink.allow(0)
        pipe.end()
        assert await pipe.copier.ended(10)
        assert pipe.failures == [sink.error]


async def test_stopping_drops_what_is_in_hand() -> None:
    sink = Collector(room=1)
    with pipe_to(sink) as pipe:
        os.write(pipe.writer, bytes(10))
        await sink.full.wait()
        pipe.copier.stop()
        assert not sink.full.is_set()
        assert await pipe.copier.deliver(10) == 0
        assert pipe.ends == []


async def test_a_read_error_is_handed_on() -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    ends: list[OSError | None] = []
    copier = Copier(master, NullSink(), ends.append, ends.append)
    os.close(slave)
    assert await copier.ended(10)
    os.close(master)
    assert [type(end) for end in ends] == [OSError]
    with pytest.raises(OSError, match="Input/output error"):
        raise ends[0] or AssertionError
