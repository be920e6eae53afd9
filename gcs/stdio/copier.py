"""One direction of a relay: bytes from a descriptor to a sink, on the event loop.

Reading and writing with a buffer, not splice(2) (benchmarks/stdio_relay.py): into a vsock of
Linux 6.1 splice sends every page as a packet of its own and reaches two thirds of the throughput,
into a unix socket it is about as fast, with two thirds of the CPU time.  And a sink that has to
repeat bytes on a new connection needs to have seen them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.stdio.sink import Sink
    from gcs.stdio.tee_log import TeeLog

# Read and written in one callback, so also the most a stream holds back in memory.  Copying it
# takes about 0.1 ms, far less than the 10 ms for which nothing may hold the loop.
CHUNK = 128 * 1024


class Copier:
    """Copies until the source ends, the sink fails or stop() is called.

    Reads no further than the sink takes: a full sink holds up this stream only.  Owns neither
    source nor sink.

    Args:
        source: Non-blocking descriptor.
        sink: Takes the bytes.
        source_ended: Called once, at EOF (None) or a read error, when all bytes are in the sink.
        sink_failed: Called when the sink is gone for good; has to call stop() or replace_sink().
        tee: Gets each byte once, before the sink and whatever becomes of that; holds up reading
            when it can't follow.
    """

    __slots__ = (
        "_awaited",
        "_copied",
        "_delivered",
        "_done",
        "_held_by_tee",
        "_loop",
        "_pending",
        "_sink",
        "_sink_failed",
        "_source",
        "_source_ended",
        "_tee",
    )

    def __init__(
        self,
        source: int,
        sink: Sink,
        source_ended: Callable[[OSError | None], None],
        sink_failed: Callable[[OSError], None],
        tee: TeeLog | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._source_ended = source_ended
        self._sink_failed = sink_failed
        self._tee = tee
        self._held_by_tee = False
        self._pending: memoryview | None = None
        self._copied = 0
        self._awaited = sys.maxsize
        self._delivered: asyncio.Future[None] = self._loop.create_future()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(source, self._readable)

    def stop(self) -> None:
        """Copy no more, and drop what the sink has not taken; may be called again."""
        if self._done.done():
            return
        self._loop.remove_reader(self._source)
        if self._pending is not None:
            self._sink.when_writable(None)
            self._pending = None
        self._finish()

    def replace_sink(self, sink: Sink) -> None:
        """Go on with another sink; what the old one has not taken is dropped."""
        if self._pending is not None:
            dropped = len(self._pending)
            self._resume_reading()
            self._count(dropped)
        self._sink = sink

    async def deliver(self, stall_seconds: float) -> int:
        """Wait until the sink has taken what is in the source now.

        Waits as long as the sink goes on taking bytes, and gives up after `stall_seconds` without
        any.  Returns the number of bytes that were given up.
        """
        if not self._done.done():
            waiting = 0 if self._pending is None else len(self._pending)
            self._awaited = self._copied + waiting + readable_bytes(self._source)
            self._count(0)
        while not self._delivered.done():
            before = self._copied
            await asyncio.wait((self._delivered,), timeout=stall_seconds)
            if self._copied == before and not self._delivered.done():
                return self._awaited - before
        return 0

    async def ended(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the source; return whether it has ended."""
        if not self._done.done():
            await asyncio.wait((self._done,), timeout=max(0.0, seconds))
        return self._done.done()

    def _readable(self) -> None:
        try:
            data = os.read(self._source, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(None)
            return
        if self._tee is not None and not self._tee.put(data):
            self._held_by_tee = True
            self._loop.remove_reader(self._source)
            self._tee.when_room(self._tee_has_room)
        try:
            taken = self._sink.write(data)
        except OSError as error:
            self._count(len(data))
            self._sink_failed(error)
            return
        if taken < len(data):
            self._pending = memoryview(data)[taken:]
            self._loop.remove_reader(self._source)
            self._sink.when_writable(self._writable)
        self._count(taken)

    def _writable(self) -> None:
        pending = self._pending
        if pending is None:
            return
        try:
            taken = self._sink.write(pending)
        except OSError as error:
            self._resume_reading()
            self._count(len(pending))
            self._sink_failed(error)
            return
        if taken == len(pending):
            self._resume_reading()
        else:
            self._pending = pending[taken:]
        self._count(taken)

    def _resume_reading(self) -> None:
        self._pending = None
        self._sink.when_writable(None)
        if not self._held_by_tee:
            self._loop.add_reader(self._source, self._readable)

    def _tee_has_room(self) -> None:
        self._held_by_tee = False
        if self._pending is None and not self._done.done():
            self._loop.add_reader(self._source, self._readable)

    def _count(self, taken: int) -> None:
        self._copied += taken
        if self._copied >= self._awaited and not self._delivered.done():
            self._delivered.set_result(None)

    def _end(self, error: OSError | None) -> None:
        self._loop.remove_reader(self._source)
        self._finish()
        self._source_ended(error)

    def _finish(self) -> None:
        self._done.set_result(None)
        if not self._delivered.done():
            self._delivered.set_result(None)


def readable_bytes(descriptor: int) -> int:
    """Return how many bytes a pipe, socket or terminal holds for its reader (FIONREAD)."""
    from termios import FIONREAD

    return int.from_bytes(fcntl.ioctl(descriptor, FIONREAD, bytes(4)), sys.byteorder)
