"""One connection to the host: frames in, messages out.

The descriptors are watched by the loop directly; a stream or a transport in between would cost
each request two more rounds of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from gcs.bridge.framing import FrameDecoder
from gcs.protocol.errors import FramingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from gcs.bridge.message import Message
    from gcs.protocol.frame import Header

logger = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
#: While more than this waits for a slow host, no request is read; below the second, again.
_HIGH_WATER = 1024 * 1024
_LOW_WATER = 256 * 1024
#: Messages in one system call; on a vsock each call is a packet, and an exit from the VM.
_MESSAGES_AT_ONCE = 64


class Connection:
    """Reads frames and writes messages until the host, or somebody here, closes.

    Args:
        reader: Non-blocking descriptor of what comes from the host; owned.
        writer: Non-blocking descriptor for what goes there, maybe the same; owned.
        on_frame: Called with each frame, in order.
    """

    def __init__(
        self,
        reader: int,
        writer: int,
        on_frame: Callable[[Header, bytes | bytearray], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._on_frame = on_frame
        self._decoder = FrameDecoder()
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._sent_of_first = 0
        self._paused = False
        self._waiting = False
        self._gathering = False
        self._closed = self._loop.create_future()
        self._loop.add_reader(reader, self._read)

    @classmethod
    def from_socket(
        cls, connected: socket, on_frame: Callable[[Header, bytes | bytearray], None]
    ) -> Connection:
        """Make a connection of a connected non-blocking socket, which is taken over."""
        descriptor = connected.detach()
        return cls(descriptor, descriptor, on_frame)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent, as far as is known."""
        return not self._closed.done()

    async def wait_closed(self) -> str:
        """Wait for the end of the connection; return why it ended, for a log entry."""
        return await asyncio.shield(self._closed)

    def send(self, message: Message) -> None:
        """Write a message behind all that were sent before; never waits, never fails."""
        self._queue.append(message)
        self._queued_bytes += len(message.frame)
        if len(self._queue) == 1 and not self._gathering:
            self._write()
        if self._queued_bytes > _HIGH_WATER and not self._paused and self.is_open:
            self._paused = True
            self._loop.remove_reader(self._reader)

    def unsent(self) -> list[Message]:
        """Return the messages that were not handed to the kernel in full, in order."""
        return list(self._queue)

    def close(self, reason: str) -> None:
        """Close at once; what was not written stays in :meth:`unsent`."""
        if self._closed.done():
            return
        self._loop.remove_reader(self._reader)
        self._loop.remove_writer(self._writer)
        for descriptor in {self._reader, self._writer}:
            os.close(descriptor)
        self._closed.set_result(reason)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"read failed: {error.strerror}")
            return
        if not data:
            missing = self._decoder.pending()
            self.close(f"closed by the host within a frame ({missing})" if missing else "EOF")
            return
        self._gathering = True
        frames = 0
        try:
            for header, body in self._decoder.feed(data):
                frames += 1
                self._on_frame(header, body)
                if not self.is_open:
                    return
        except FramingError as error:
            logger.error("the stream from the host is broken: %s", error)
            self._send_gathered()
            self.close("malformed frame")
        except Exception:
            # A request may have been lost: better a host that knows than one that waits.
            logger.exception("cannot take in a frame")
            self._send_gathered()
            self.close("internal error")
        if frames > 1:
            # What these requests started comes before this, and answers most of them.
            self._loop.call_soon(self._send_gathered)
        else:
            self._send_gathered()

    def _send_gathered(self) -> None:
        """Send what was gathered while several requests that came together were taken in."""
        self._gathering = False
        if not self._waiting:
            self._write()

    def _write(self) -> None:
        while self._queue and self.is_open:
            frames = [message.frame for message in islice(self._queue, _MESSAGES_AT_ONCE)]
            try:
                count = os.writev(
                    self._writer, [memoryview(frames[0])[self._sent_of_first :], *frames[1:]]
                )
            except (BlockingIOError, InterruptedError):
                if not self._waiting:
                    self._waiting = True
                    self._loop.add_writer(self._writer, self._write)
                return
            except OSError as error:
                self.close(f"write failed: {error.strerror}")
                return
            self._sent_of_first += count
            for frame in frames:
                if self._sent_of_first < len(frame):
                    break
                self._queue.popleft()
                self._queued_bytes -= len(frame)
                self._sent_of_first -= len(frame)
        if self._waiting and self.is_open:
            self._waiting = False
            self._loop.remove_writer(self._writer)
        if self._paused and self._queued_bytes < _LOW_WATER and self.is_open:
            self._paused = False
            self._loop.add_reader(self._reader, self._read)
