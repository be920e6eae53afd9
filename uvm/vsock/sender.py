"""The way to the guest: control packets first and in order, data while there are buffers."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from uvm.vsock.packet import HEADER_SIZE, OP_RW
from uvm.vsock.virtqueue import Chain, ChainError, QueueError, Virtqueue

if TYPE_CHECKING:
    from uvm.vsock.complaints import Complaints

# A guest may send what must be answered and yet offer no buffers for the answers. Beyond this
# many (about 100 bytes each) its packets are left in its own queue until it takes some answers.
BACKLOG_LIMIT: Final = 16384

# One read fills at most this many buffers (of 4 KiB with Linux) before others get their turn.
BURST_LIMIT: Final = 64
# readv takes 1024 pieces at most, and one chain can bring up to 512 of them.
PIECES_LIMIT: Final = 512


class ReceiveBuffer:
    """A buffer of the guest's receive queue: room for a header, then room for data."""

    __slots__ = ("capacity", "data", "head", "header")

    def __init__(self, chain: Chain) -> None:
        """Raises ChainError when there is no room for a header and one byte of data."""
        header, self.data = chain.split(HEADER_SIZE)
        self.head: Final = chain.head
        self.capacity: Final = sum(map(len, self.data))
        if not self.capacity:
            raise ChainError(chain.head, "no room for data")
        self.header: Final = header

    def write_header(self, header: bytes) -> None:
        """Fill in the header, wherever its pieces are."""
        if isinstance(self.header, memoryview):
            self.header[:] = header
            return
        offset = 0
        for piece in self.header:
            piece[:] = header[offset : offset + len(piece)]
            offset += len(piece)


class Source(Protocol):
    """What data is read from: a descriptor, and who it is in the guest's eyes."""

    fd: int

    def header(self, operation: int, length: int = 0, flags: int = 0) -> bytes:
        """A packed header with the source's ports and its present credit."""


class GuestSender:
    """Everything for the guest passes here.

    Control packets wait in one line when the guest offers no buffers, and data is only read from
    the host while nobody waits, so that the credit counters, which each packet carries, reach the
    guest in the order in which they were true.
    """

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._queue: Virtqueue | None = None
        self._buffers: deque[ReceiveBuffer] = deque()
        self._control: deque[bytes] = deque()

    def start(self, queue: Virtqueue) -> None:
        """The guest's receive queue begins."""
        self._queue = queue
        queue.disable_kicks()
        self.flush()

    def stop(self) -> None:
        """Touch the queue no more; control packets wait for the next one."""
        if self._queue is not None:
            self.release_buffers()
            self._queue.notify()
            self._queue = None

    def release_buffers(self) -> None:
        """Give prefetched buffers back, untouched."""
        if self._queue is not None:
            self._queue.unpop(len(self._buffers))
        self._buffers.clear()

    def forget_control(self) -> None:
        """Drop the packets that wait: their guest is gone."""
        self._control.clear()

    @property
    def overloaded(self) -> bool:
        """Whether so many answers wait that no more questions should be taken."""
        return len(self._control) >= BACKLOG_LIMIT

    @property
    def running(self) -> bool:
        """Whether there is a guest to send to."""
        return self._queue is not None and not self._queue.broken

    def control(self, packet: bytes) -> None:
        """Send a packet without payload, at once or as soon as the guest has buffers."""
        self._control.append(packet)
        if len(self._control) == 1:
            self.flush()

    def flush(self) -> None:
        """Send the control packets that wait, as far as there are buffers."""
        control = self._control
        while control and self._prefetch(1):
            buffer = self._buffers.popleft()
            buffer.write_header(control.popleft())
            self._push(buffer.head, HEADER_SIZE)
        self._publish()

    def ready(self, count: int) -> bool:
        """Whether data can be sent now; prefetches up to ``count`` buffers.

        After False the guest kicks as soon as it has buffers.
        """
        return not self._control and self._prefetch(count)

    def relay(self, source: Source, limit: int, count: int) -> tuple[int, int]:
        """Read from the source straight into guest memory and send what was read.

        At most ``limit`` bytes into at most ``count`` buffers, of which `ready` has said there is
        one. Returns how many bytes came, 0 at end of file, and how many could have come. Raises
        BlockingIOError when there is nothing to read, OSError as readv.
        """
        pieces: list[memoryview] = []
        room = 0
        for index, buffer in enumerate(self._buffers):
            if index == count or room >= limit or len(pieces) + len(buffer.data) > PIECES_LIMIT:
                break
            pieces += buffer.data
            room += buffer.capacity
        if room > limit:
            _shorten(pieces, room - limit)
            room = limit
        received = os.readv(source.fd, pieces)
        if received:
            self._send_data(source, received)
        return received, room

    def _send_data(self, source: Source, received: int) -> None:
        left = received
        header_size = -1
        header = b""
        while left:
            buffer = self._buffers.popleft()
            size = min(left, buffer.capacity)
            if size != header_size:
                header_size = size
                header = source.header(OP_RW, size)
            buffer.write_header(header)
            self._push(buffer.head, HEADER_SIZE + size)
            left -= size
        self._publish()

    def notify(self) -> None:
        """Interrupt the guest for what was sent since the last time."""
        if self._queue is not None:
            self._queue.notify()

    def _prefetch(self, count: int) -> bool:
        """Have up to ``count`` buffers parsed; whether there is at least one."""
        buffers, queue = self._buffers, self._queue
        if queue is None:
            return False
        malformed = 0
        try:
            while len(buffers) < count and malformed <= queue.size:
                try:
                    chain = queue.pop()
                    if chain is not None:
                        buffers.append(ReceiveBuffer(chain))
                    elif buffers or not queue.enable_kicks():
                        break
                except ChainError as error:
                    self._complaints.warn("receive buffer of the guest: %s", error)
                    malformed += 1
                    queue.push(error.head, 0)
                    queue.publish()
        except QueueError as error:
            self._complaints.warn("receive queue of the guest is unusable: %s", error)
        return bool(buffers)

    def _push(self, head: int, written: int) -> None:
        if self._queue is not None:
            self._queue.push(head, written)

    def _publish(self) -> None:
        if self._queue is not None:
            self._queue.publish()


def _shorten(pieces: list[memoryview], excess: int) -> None:
    """Cut ``excess`` bytes off the end of a list of views."""
    while excess >= len(pieces[-1]):
        excess -= len(pieces.pop())
    if excess:
        pieces[-1] = pieces[-1][:-excess]
