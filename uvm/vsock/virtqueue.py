"""The split virtqueue, device side (virtio 1.2, 2.7).

Memory order: the driver runs on another processor. On x86-64, the only machine this package is
meant for, stores are seen in program order and loads are not delayed, so publishing an index after
the element it covers needs nothing; only "store, then load something else" needs a barrier, which
is taken where notifications are switched. Indexes are read and written as items of a memoryview, a
single access each; struct would clear them before writing, and read them byte by byte.
"""

from __future__ import annotations

import struct
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from uvm.vsock.memory import GuestMemory, GuestMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable

DESCRIPTOR: Final = struct.Struct("<QIHH")
USED_ELEMENT: Final = struct.Struct("<II")

DESCRIPTOR_NEXT: Final = 1
DESCRIPTOR_WRITE: Final = 2
DESCRIPTOR_INDIRECT: Final = 4

# A chain becomes one readv or writev, whose limit (IOV_MAX) is 1024 buffers.
CHAIN_LIMIT: Final = 512
SIZE_LIMIT: Final = 32768

_barrier_lock = Lock()


def _full_barrier() -> None:
    """Order all earlier stores before all later loads: taking a lock is a locked instruction."""
    _barrier_lock.acquire()
    _barrier_lock.release()


class QueueError(Exception):
    """The rings contradict themselves: nothing more can be read from this queue."""


class ChainError(Exception):
    """One chain of descriptors is malformed; the queue goes on without it."""

    def __init__(self, head: int, reason: str) -> None:
        super().__init__(f"descriptor chain {head}: {reason}")
        self.head: Final = head


class RingAddresses(NamedTuple):
    """Where the three parts of a queue lie, in QEMU's address space."""

    descriptors: int
    used: int
    available: int


class Chain:
    """One buffer of the driver's: the index of its first descriptor, and its memory in pieces."""

    __slots__ = ("head", "segments")

    def __init__(self, head: int, segments: list[memoryview]) -> None:
        self.head: Final = head
        self.segments: Final = segments

    def split(self, size: int) -> tuple[memoryview | list[memoryview], list[memoryview]]:
        """Cut off the first ``size`` bytes: (those bytes, the rest).

        The first part is one view wherever the driver kept it in one descriptor, which all known
        drivers do, and a list of views otherwise. Raises ChainError when the chain is shorter.
        """
        first = self.segments[0] if self.segments else memoryview(b"")
        if len(first) == size:
            return first, self.segments[1:]
        if len(first) > size:
            return first[:size], [first[size:], *self.segments[1:]]
        return self._split_slowly(size)

    def _split_slowly(self, size: int) -> tuple[list[memoryview], list[memoryview]]:
        front: list[memoryview] = []
        rest: list[memoryview] = []
        for segment in self.segments:
            front.append(segment[:size])
            if len(segment) > size:
                rest.append(segment[size:])
            size = max(0, size - len(segment))
        if size:
            raise ChainError(self.head, f"{size} bytes too short")
        return [segment for segment in front if segment], rest


class Virtqueue:
    """A queue that has been started.

    ``device_writes`` tells the direction: all descriptors of the queue must be device-writable,
    or none. `pop` and `push` may be batched: the driver sees nothing before `publish`, and is not
    interrupted before `notify`.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        addresses: RingAddresses,
        base: int,
        *,
        event_index: bool,
        device_writes: bool,
    ) -> None:
        """Raises QueueError for an impossible size or for rings outside of the shared memory."""
        if not 0 < size <= SIZE_LIMIT or size & (size - 1):
            raise QueueError(f"queue size {size} is not a power of two up to {SIZE_LIMIT}")
        self.size: Final = size
        self.addresses: Final = addresses
        self.broken = False
        self.call: Callable[[], None] | None = None
        self._mask: Final = size - 1
        self._event_index: Final = event_index
        self._write_flag: Final = DESCRIPTOR_WRITE if device_writes else 0
        self._next = base
        self._available_seen = base
        self.attach(memory)
        # The driver takes used elements in the order of this index, which is its own to continue.
        self._used_next = self._used_published = self._used_notified = self._used_h[1]
        self._first_notification = True

    def attach(self, memory: GuestMemory) -> None:
        """Find the rings in a new memory table. Raises QueueError when they are not in it."""
        size = self.size
        try:
            self._descriptors = memory.user(self.addresses.descriptors, 16 * size)
            self._available = memory.user(self.addresses.available, 6 + 2 * size).cast("H")
            self._used = memory.user(self.addresses.used, 6 + 8 * size)
        except GuestMemoryError as error:
            raise QueueError(f"rings of the queue: {error}") from error
        self._used_h = self._used.cast("H")
        self._memory = memory

    @property
    def next_available(self) -> int:
        """The index of the next chain to pop, modulo 2**16: what GET_VRING_BASE answers."""
        return self._next

    def unpop(self, count: int) -> None:
        """Give back the last ``count`` chains, unused."""
        self._next = (self._next - count) & 0xFFFF

    def pop(self) -> Chain | None:
        """The next chain the driver made available, None when there is none.

        Raises ChainError for a malformed chain, which counts as popped; QueueError when the
        rings themselves are inconsistent.
        """
        position = self._next
        if position == self._available_seen and not self._look():
            return None
        head = self._available[2 + (position & self._mask)]
        if head >= self.size:
            self._break(f"available ring names descriptor {head} of {self.size}")
        self._next = (position + 1) & 0xFFFF
        address, length, flags, _ = DESCRIPTOR.unpack_from(self._descriptors, 16 * head)
        if flags & DESCRIPTOR_INDIRECT:
            table, entries = self._indirect_table(head, address, length, flags)
            return Chain(head, self._walk(head, table, entries, 0))
        return Chain(head, self._walk(head, self._descriptors, self.size, head))

    def _look(self) -> bool:
        """Read the driver's index; whether it offers anything."""
        if self.broken:
            return False
        seen = self._available[1]
        if (seen - self._next) & 0xFFFF > self.size:
            self._break(f"available index {seen} is over {self.size} ahead of {self._next}")
        self._available_seen = seen
        return seen != self._next

    def _break(self, reason: str) -> NoReturn:
        self.broken = True
        self._available_seen = self._next
        raise QueueError(reason)

    def _indirect_table(
        self, head: int, address: int, length: int, flags: int
    ) -> tuple[memoryview, int]:
        entries, remainder = divmod(length, 16)
        if flags & DESCRIPTOR_NEXT or remainder or not 0 < entries <= CHAIN_LIMIT:
            raise ChainError(head, f"indirect table of {length} bytes, flags {flags}")
        try:
            return self._memory.guest(address, length), entries
        except GuestMemoryError as error:
            raise ChainError(head, str(error)) from error

    def _walk(self, head: int, table: memoryview, entries: int, index: int) -> list[memoryview]:
        segments: list[memoryview] = []
        for _ in range(min(entries, CHAIN_LIMIT)):
            address, length, flags, following = DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & DESCRIPTOR_WRITE != self._write_flag or flags & DESCRIPTOR_INDIRECT:
                raise ChainError(head, f"descriptor {index} has flags {flags}")
            segments += self._pieces(head, address, length)
            if not flags & DESCRIPTOR_NEXT:
                return segments
            if following >= entries:
                raise ChainError(head, f"descriptor {index} continues at {following}")
            index = following
        raise ChainError(head, "endless")

    def _pieces(self, head: int, address: int, length: int) -> list[memoryview]:
        if not length:
            return []
        try:
            return [self._memory.guest(address, length)]
        except GuestMemoryError as error:
            raise ChainError(head, str(error)) from error

    def push(self, head: int, written: int) -> None:
        """Give a chain back, with ``written`` bytes in it; the driver sees it after `publish`."""
        position = 4 + 8 * (self._used_next & self._mask)
        USED_ELEMENT.pack_into(self._used, position, head, written)
        self._used_next = (self._used_next + 1) & 0xFFFF

    def publish(self) -> None:
        """Let the driver see everything pushed."""
        if self._used_published != self._used_next:
            self._used_published = self._used_h[1] = self._used_next

    def notify(self) -> None:
        """Interrupt the driver if it wants to know about what was published since last time."""
        new, old = self._used_published, self._used_notified
        if new == old or self.broken:
            return
        self._used_notified = new
        _full_barrier()
        if self._first_notification:
            # What the driver was told before this start (a paused VM) is unknown.
            self._first_notification = False
            wanted = True
        elif self._event_index:
            event = self._available[2 + self.size]
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self._available[0] & 1
        if wanted and self.call is not None:
            self.call()

    def disable_kicks(self) -> None:
        """Ask the driver not to kick: a hint, kicks may still come."""
        # With event indexes nothing is to do: the index named last lies behind the driver.
        if not self._event_index:
            self._used_h[0] = 1

    def enable_kicks(self) -> bool:
        """Ask for a kick at the next chain; True when one came before the driver could know.

        Raises QueueError as `pop`.
        """
        if self._event_index:
            self._used_h[2 + 4 * self.size] = self._next
        else:
            self._used_h[0] = 0
        _full_barrier()
        return self._look()
