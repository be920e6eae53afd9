"""The split virtqueue: indexes that wrap, notifications, and rings that lie."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from uvm.vsock.memory import GuestMemory, Region, RegionLayout
from uvm.vsock.virtqueue import (
    DESCRIPTOR_NEXT,
    DESCRIPTOR_WRITE,
    ChainError,
    QueueError,
    RingAddresses,
    Virtqueue,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8
ADDRESSES = RingAddresses(descriptors=0x0000, used=0x2000, available=0x1000)
DATA = 0x3000


class Rings:
    """The driver's half, in the plainest way. Guest and QEMU addresses are the same."""

    def __init__(self, base: int, *, event_index: bool, device_writes: bool = False) -> None:
        self.file = os.memfd_create("guest")
        os.ftruncate(self.file, 0x10000)
        self.memory = GuestMemory([Region(RegionLayout(0, 0x10000, 0, 0), self.file)])
        self.view = self.memory.guest(0, 0x10000)
        self.base = base
        self.set(ADDRESSES.available + 2, base)
        self.set(ADDRESSES.used + 2, base)
        self.queue = Virtqueue(
            self.memory,
            SIZE,
            ADDRESSES,
            base,
            event_index=event_index,
            device_writes=device_writes,
        )
        self.calls = 0
        self.queue.call = self._count
        self.position = base

    def _count(self) -> None:
        self.calls += 1

    def set(self, address: int, value: int) -> None:
        struct.pack_into("<H", self.view, address, value)

    def get(self, address: int) -> int:
        value: int = struct.unpack_from("<H", self.view, address)[0]
        return value

    def describe(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        struct.pack_into("<QIHH", self.view, 16 * index, address, length, flags, following)

    def offer(self, head: int) -> None:
        self.set(ADDRESSES.available + 4 + 2 * (self.position % SIZE), head)
        self.position = (self.position + 1) & 0xFFFF
        self.set(ADDRESSES.available + 2, self.position)

    def used(self, position: int) -> tuple[int, int]:
        address = ADDRESSES.used + 4 + 8 * (position % SIZE)
        head, written = struct.unpack_from("<II", self.view, address)
        return head, written

    def complete(self) -> None:
        """One chain through the queue."""
        self.describe(0, DATA, 10, 0, 0)
        self.offer(0)
        chain = self.queue.pop()
        assert chain is not None
        self.queue.push(chain.head, 0)
        self.queue.publish()
        self.queue.notify()

    def close(self) -> None:
        os.close(self.file)


@pytest.fixture(params=[False, True], ids=["flags", "event-index"])
def rings(request: pytest.FixtureRequest) -> Iterator[Rings]:
    rings = Rings(0xFFFD, event_index=request.param)
    yield rings
    rings.close()


def test_indexes_wrap(rings: Rings) -> None:
    for step in range(3 * SIZE):
        rings.describe(step % SIZE, DATA + step, 4, 0, 0)
        rings.view[DATA + step : DATA + step + 4] = b"%04d" % step
        rings.offer(step % SIZE)
        chain = rings.queue.pop()
        assert chain is not None
        assert b"".join(chain.segments) == b"%04d" % step
        assert rings.queue.pop() is None
        rings.queue.push(chain.head, step)
        before = rings.get(ADDRESSES.used + 2)
        assert before == (0xFFFD + step) & 0xFFFF
        rings.queue.publish()
        assert rings.get(ADDRESSES.used + 2) == (0xFFFD + step + 1) & 0xFFFF
        assert rings.used(before) == (step % SIZE, step)
    assert rings.queue.next_available == (0xFFFD + 3 * SIZE) & 0xFFFF


def heads(queue: Virtqueue, count: int) -> list[int]:
    chains = [queue.pop() for _ in range(count)]
    return [chain.head for chain in chains if chain is not None]


def test_unpopped_chains_come_again(rings: Rings) -> None:
    for index in range(3):
        rings.describe(index, DATA, 4, 0, 0)
        rings.offer(index)
    assert heads(rings.queue, 4) == [0, 1, 2]
    rings.queue.unpop(2)
    assert heads(rings.queue, 3) == [1, 2]


def test_chain_of_several_descriptors(rings: Rings) -> None:
    rings.view[DATA : DATA + 6] = b"abcdef"
    rings.describe(5, DATA, 2, DESCRIPTOR_NEXT, 1)
    rings.describe(1, DATA + 2, 0, DESCRIPTOR_NEXT, 2)
    rings.describe(2, DATA + 2, 4, 0, 0)
    rings.offer(5)
    chain = rings.queue.pop()
    assert chain is not None
    assert chain.head == 5
    assert chain.segments == [b"ab", b"cdef"]
    for cut in range(1, 6):
        front, rest = chain.split(cut)
        first = bytes(front) if isinstance(front, memoryview) else b"".join(front)
        assert (first, b"".join(rest)) == (b"abcdef"[:cut], b"abcdef"[cut:])
    with pytest.raises(ChainError, match="1 bytes too short"):
        chain.split(7)


def test_bad_chain_is_popped(rings: Rings) -> None:
    rings.describe(0, DATA, 2, DESCRIPTOR_WRITE, 0)
    rings.describe(1, DATA, 2, DESCRIPTOR_NEXT, 1)
    rings.describe(2, DATA, 2, 0, 0)
    for head in range(3):
        rings.offer(head)
    for head in range(2):
        with pytest.raises(ChainError) as error:
            rings.queue.pop()
        assert error.value.head == head
    chain = rings.queue.pop()
    assert chain is not None
    assert chain.head == 2


def test_index_too_far_ahead(rings: Rings) -> None:
    rings.set(ADDRESSES.available + 2, (rings.base + SIZE + 1) & 0xFFFF)
    with pytest.raises(QueueError, match="ahead"):
        rings.queue.pop()
    assert rings.queue.broken
    assert rings.queue.pop() is None


def test_head_out_of_range(rings: Rings) -> None:
    rings.offer(SIZE)
    with pytest.raises(QueueError, match=f"descriptor {SIZE} of {SIZE}"):
        rings.queue.pop()
    assert rings.queue.pop() is None


def test_interrupt_by_flag() -> None:
    rings = Rings(0, event_index=False)
    rings.complete()
    assert rings.calls == 1
    rings.set(ADDRESSES.available, 1)
    rings.complete()
    assert rings.calls == 1
    rings.set(ADDRESSES.available, 0)
    rings.complete()
    assert rings.calls == 2
    rings.queue.notify()
    assert rings.calls == 2
    rings.close()


def test_interrupt_by_event_index() -> None:
    rings = Rings(0xFFFE, event_index=True)
    rings.complete()
    assert rings.calls == 1, "the first is always told"
    event = ADDRESSES.available + 4 + 2 * SIZE
    rings.set(event, 1)  # wants to know about the element after the next two
    rings.complete()
    rings.complete()
    assert rings.calls == 1
    rings.complete()
    assert rings.calls == 2
    rings.close()


def test_kicks_are_asked_for_only_when_wanted(rings: Rings) -> None:
    flags, event = ADDRESSES.used, ADDRESSES.used + 4 + 8 * SIZE
    rings.queue.disable_kicks()
    assert rings.get(flags) == (1 if rings.get(event) == 0 and not _uses_event(rings) else 0)
    assert rings.queue.enable_kicks() is False
    assert rings.get(flags) == 0
    if _uses_event(rings):
        assert rings.get(event) == rings.base
    rings.describe(0, DATA, 4, 0, 0)
    rings.offer(0)
    assert rings.queue.enable_kicks() is True


def _uses_event(rings: Rings) -> bool:
    return rings.queue._event_index


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_impossible_size(rings: Rings, size: int) -> None:
    with pytest.raises(QueueError, match="power of two"):
        Virtqueue(rings.memory, size, ADDRESSES, 0, event_index=False, device_writes=False)


def test_rings_outside_of_memory(rings: Rings) -> None:
    outside = ADDRESSES._replace(used=0xFFF0)
    with pytest.raises(QueueError, match="not shared memory"):
        Virtqueue(rings.memory, SIZE, outside, 0, event_index=False, device_writes=False)
