"""A guest for the vsock device without a VM: vhost-user front-end and virtio-vsock driver in one.

It shares a memory file, builds the rings and speaks the packets, and it is strict: a packet that
goes beyond the credit it gave, or announces impossible credit, fails the test.
"""

from __future__ import annotations

import array
import mmap
import os
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from uvm.vsock import vhost_user as vu
from uvm.vsock.packet import (
    HEADER_SIZE,
    HOST_CID,
    OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    TYPE_STREAM,
    Header,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GUEST_CID: Final = 3
PATIENCE: Final = 20.0

GUEST_BASE: Final = 0x100000
USER_BASE: Final = 0x7F00_0000_0000
MEMORY_SIZE: Final = 16 << 20
QUEUE_SIZE: Final = 64
BUFFER_BYTES: Final = HEADER_SIZE + 4096
PACKET_BYTES: Final = HEADER_SIZE + 65536

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4

RECEIVE: Final = 0
TRANSMIT: Final = 1

Descriptor = tuple[int, int, int, int]


class Ring:
    """One split virtqueue, driver side. Offsets are in the memory file.

    Indexes are items of a memoryview: struct would clear them before writing.
    """

    def __init__(self, memory: memoryview, offset: int, *, event_index: bool) -> None:
        self.descriptors: Final = offset
        self.available: Final = offset + 16 * QUEUE_SIZE
        self.used: Final = offset + 16 * QUEUE_SIZE + 4096
        self.memory: Final = memory
        self.event_index: Final = event_index
        self.kick_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.next_available = 0
        self.next_used = 0
        self._available_items: Final = memory[self.available : self.available + 4096].cast("H")
        self._used_items: Final = memory[self.used : self.used + 4096].cast("H")

    def reset(self) -> None:
        """Start from nothing, as a driver that has just been loaded."""
        size = self.used + 4096 - self.descriptors
        self.memory[self.descriptors : self.descriptors + size] = bytes(size)
        self.next_available = self.next_used = 0

    def write_descriptor(self, index: int, descriptor: Descriptor) -> None:
        struct.pack_into("<QIHH", self.memory, self.descriptors + 16 * index, *descriptor)

    def offer(self, head: int) -> None:
        """Make a chain available; `kick` tells the device."""
        self._available_items[2 + self.next_available % QUEUE_SIZE] = head
        self.set_available_index((self.next_available + 1) & 0xFFFF)

    def set_available_index(self, index: int) -> None:
        self._available_items[1] = self.next_available = index

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def take(self) -> tuple[int, int] | None:
        """The next chain the device gave back, with the bytes it wrote. Asks for an interrupt."""
        if self.event_index:
            self._available_items[2 + QUEUE_SIZE] = self.next_used
        if self._used_items[1] == self.next_used:
            return None
        slot = self.used + 4 + 8 * (self.next_used % QUEUE_SIZE)
        head, written = struct.unpack_from("<II", self.memory, slot)
        self.next_used = (self.next_used + 1) & 0xFFFF
        return head, written

    def wait(self) -> None:
        """Wait until the device gives something back."""
        if self._used_items[1] == self.next_used:
            ready, _, _ = select.select([self.call_fd], [], [], PATIENCE)
            assert ready, "the device is silent"
            os.eventfd_read(self.call_fd)

    def close(self) -> None:
        self._available_items.release()
        self._used_items.release()
        os.close(self.kick_fd)
        os.close(self.call_fd)


class FrontEnd:
    """The messages that QEMU sends."""

    def __init__(self, path: Path) -> None:
        self.sock: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))

    def send(self, request: int, payload: bytes = b"", *, fds: tuple[int, ...] = ()) -> None:
        """Send a request and wait until it is done (REPLY_ACK)."""
        header = vu.MESSAGE_HEADER.pack(request, vu.VERSION | vu.FLAG_NEED_REPLY, len(payload))
        self._send(header + payload, fds)
        assert self._reply(request) == bytes(8)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """Send a request that has an answer, and return it."""
        self._send(vu.MESSAGE_HEADER.pack(request, vu.VERSION, len(payload)) + payload, ())
        return self._reply(request)

    def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.sock.sendmsg([data], ancillary) == len(data)

    def _reply(self, request: int) -> bytes:
        answered, flags, size = vu.MESSAGE_HEADER.unpack(self._read(vu.MESSAGE_HEADER.size))
        assert (answered, flags) == (request, vu.VERSION | vu.FLAG_REPLY)
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise ConnectionError("the device has closed the vhost-user connection")
            data += more
        return data


class Stream:
    """A stream as the guest sees it."""

    def __init__(
        self, guest: Guest, guest_port: int, host_port: int, *, buffer_size: int = 256 * 1024
    ) -> None:
        self.guest: Final = guest
        self.guest_port: Final = guest_port
        self.host_port: Final = host_port
        self.buffer_size = buffer_size
        self.received = bytearray()
        self.received_total = 0
        self.taken = 0
        self.sent = 0
        self.host_buffer = 0
        self.host_forwarded = 0
        self.shutdown_flags = 0
        self.operations: list[int] = []

    @property
    def reset(self) -> bool:
        return OP_RST in self.operations

    @property
    def credit(self) -> int:
        """As newer Linux kernels count: no more than we would have room for ourselves."""
        window = min(self.host_buffer, self.buffer_size)
        return window - (self.sent - self.host_forwarded)

    def packet(self, operation: int, payload: bytes = b"", *, flags: int = 0) -> None:
        """Send one packet."""
        self.guest.send_packet(
            Header(
                GUEST_CID, HOST_CID, self.guest_port, self.host_port, len(payload), TYPE_STREAM,
                operation, flags, self.buffer_size, self.taken & 0xFFFFFFFF,
            ),
            payload,
        )  # fmt: skip

    def on_packet(self, header: Header, payload: bytes) -> None:
        assert header.destination_cid == GUEST_CID
        self.operations.append(header.operation)
        if header.operation == OP_RST:
            return
        self.host_buffer, self.host_forwarded = header.buffer_size, header.forwarded
        assert header.forwarded <= self.sent
        self.received += payload
        self.received_total += len(payload)
        assert self.received_total - self.taken <= self.buffer_size, "device exceeds its credit"
        if header.operation == OP_SHUTDOWN:
            self.shutdown_flags |= header.flags

    def read(self, size: int) -> bytes:
        """Wait for ``size`` bytes, take them, and give the credit back."""
        data = bytearray()
        while len(data) < size:
            self.guest.wait_for(lambda: self.received)
            part = self.received[: size - len(data)]
            del self.received[: len(part)]
            data += part
            self.taken += len(part)
            self.packet(OP_CREDIT_UPDATE)
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Send all, waiting for credit as needed."""
        view = memoryview(data)
        while view:
            self.guest.wait_for(lambda: self.credit > 0)
            size = min(self.credit, 65536, len(view))
            self.sent += size
            self.packet(OP_RW, bytes(view[:size]))
            view = view[size:]

    def write_all_credit(self) -> int:
        """Use up the credit there is after what the device has taken so far; how much it was."""
        total = 0
        while self.credit > 0:
            size = min(self.credit, 65536)
            self.sent += size
            self.packet(OP_RW, pattern(total, size))
            total += size
        return total

    def wait_for_operation(self, operation: int) -> None:
        self.guest.wait_for(lambda: operation in self.operations)

    def request_credit(self) -> None:
        """A round trip through the device: what was sent before has been dealt with."""
        count = self.operations.count(OP_CREDIT_UPDATE)
        self.packet(OP_CREDIT_REQUEST)
        self.guest.wait_for(lambda: self.operations.count(OP_CREDIT_UPDATE) > count)


class Guest:
    """A virtual machine's memory, its queues and its driver."""

    def __init__(self, path: Path, *, features: int = 0, one_descriptor: bool = False) -> None:
        """``one_descriptor``: header and data share a buffer, as from Linux 6.3 on."""
        self.front_end: Final = FrontEnd(path)
        self.one_descriptor: Final = one_descriptor
        self.file: Final = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.file, MEMORY_SIZE)
        self.mapping: Final = mmap.mmap(self.file, MEMORY_SIZE)
        self.memory: Final = memoryview(self.mapping)
        self.features: Final = features or (
            vu.FEATURE_VERSION_1
            | vu.FEATURE_PROTOCOL_FEATURES
            | vu.FEATURE_EVENT_INDEX
            | vu.FEATURE_INDIRECT_DESCRIPTORS
        )
        event_index = bool(self.features & vu.FEATURE_EVENT_INDEX)
        self.receive: Final = Ring(self.memory, 0x0000, event_index=event_index)
        self.transmit: Final = Ring(self.memory, 0x8000, event_index=event_index)
        self.receive_area: Final = 0x10000
        self.transmit_area: Final = 0x10000 + QUEUE_SIZE // 2 * 8192
        self.streams: dict[tuple[int, int], Stream] = {}
        self.strays: deque[Header] = deque()
        self.on_request: Callable[[Header], Stream | None] = lambda _: None
        self.next_port = 1024
        self._free: list[int] = []
        self._held: list[int] = []
        self.withhold = False

    # Set-up

    def negotiate(self) -> None:
        """What QEMU does once, when it starts."""
        front_end = self.front_end
        (offered,) = vu.U64.unpack(front_end.ask(vu.GET_FEATURES))
        assert self.features & ~offered == 0
        (protocol,) = vu.U64.unpack(front_end.ask(vu.GET_PROTOCOL_FEATURES))
        wanted = vu.PROTOCOL_REPLY_ACK | vu.PROTOCOL_CONFIG
        assert wanted & ~protocol == 0
        front_end.send(vu.SET_PROTOCOL_FEATURES, vu.U64.pack(protocol))
        front_end.send(vu.SET_OWNER)
        config = front_end.ask(vu.GET_CONFIG, vu.CONFIG_HEADER.pack(0, 8, 0) + bytes(8))
        assert config[vu.CONFIG_HEADER.size :] == struct.pack("<Q", GUEST_CID)

    def start(self, *, reset: bool = True) -> None:
        """Start both queues: from nothing, or (after a pause) where they were stopped."""
        front_end = self.front_end
        front_end.send(vu.SET_FEATURES, vu.U64.pack(self.features))
        region = vu.MEMORY_REGION.pack(GUEST_BASE, MEMORY_SIZE, USER_BASE, 0)
        front_end.send(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, fds=(self.file,))
        if reset:
            self._reset_driver()
        for index, ring in enumerate((self.receive, self.transmit)):
            base = 0 if reset else self.bases[index]
            front_end.send(vu.SET_VRING_NUM, vu.VRING_STATE.pack(index, QUEUE_SIZE))
            front_end.send(vu.SET_VRING_BASE, vu.VRING_STATE.pack(index, base))
            addresses = (ring.descriptors, ring.used, ring.available)
            front_end.send(
                vu.SET_VRING_ADDR,
                vu.VRING_ADDRESSES.pack(index, 0, *(USER_BASE + a for a in addresses), 0),
            )
            front_end.send(vu.SET_VRING_KICK, vu.U64.pack(index), fds=(ring.kick_fd,))
            front_end.send(vu.SET_VRING_CALL, vu.U64.pack(index), fds=(ring.call_fd,))
            front_end.send(vu.SET_VRING_ENABLE, vu.VRING_STATE.pack(index, 1))

    def stop(self) -> None:
        """Stop both queues: the VM is paused or reset."""
        self.bases = [
            vu.VRING_STATE.unpack(
                self.front_end.ask(vu.GET_VRING_BASE, vu.VRING_STATE.pack(index, 0))
            )[1]
            for index in (RECEIVE, TRANSMIT)
        ]

    def _reset_driver(self) -> None:
        self.receive.reset()
        self.transmit.reset()
        self.streams.clear()
        self.strays.clear()
        self._free = list(range(QUEUE_SIZE // 2))
        self._held = []
        for slot in range(QUEUE_SIZE // 2):
            self._offer_buffer(slot)

    def close(self) -> None:
        """Leave, as QEMU does when it ends."""
        self.front_end.sock.close()
        self.receive.close()
        self.transmit.close()
        self.memory.release()
        self.mapping.close()
        os.close(self.file)

    # Receive queue

    def _offer_buffer(self, slot: int) -> None:
        if self.withhold:
            self._held.append(slot)
            return
        address = GUEST_BASE + self.receive_area + slot * 8192
        if self.one_descriptor:
            self.receive.write_descriptor(2 * slot, (address, BUFFER_BYTES, WRITE, 0))
        else:
            head = (address, HEADER_SIZE, WRITE | NEXT, 2 * slot + 1)
            self.receive.write_descriptor(2 * slot, head)
            data = (address + HEADER_SIZE, BUFFER_BYTES - HEADER_SIZE, WRITE, 0)
            self.receive.write_descriptor(2 * slot + 1, data)
        self.receive.offer(2 * slot)

    def release_buffers(self) -> None:
        """Offer the buffers that were withheld."""
        self.withhold = False
        held, self._held = self._held, []
        for slot in held:
            self._offer_buffer(slot)
        self.receive.kick()

    def _poll(self) -> bool:
        """Take one packet from the device; whether there was one."""
        element = self.receive.take()
        if element is None:
            return False
        head, written = element
        offset = self.receive_area + head // 2 * 8192
        data = bytes(self.memory[offset : offset + written])
        self._offer_buffer(head // 2)
        self.receive.kick()
        header = Header.unpack(data)
        assert written == HEADER_SIZE + header.length
        self._dispatch(header, data[HEADER_SIZE:])
        return True

    def _dispatch(self, header: Header, payload: bytes) -> None:
        key = (header.destination_port, header.source_port)
        stream = self.streams.get(key) if header.source_cid == HOST_CID else None
        if stream is None and header.operation == OP_REQUEST:
            stream = self.on_request(header)
        if stream is None:
            self.strays.append(header)
        else:
            stream.on_packet(header, payload)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Serve the receive queue until the condition holds."""
        while not condition():
            if not self._poll():
                self.receive.wait()

    # Transmit queue

    def send_packet(self, header: Header, payload: bytes = b"") -> None:
        """Send one packet, as soon as there is a free descriptor."""
        self.send_bytes(header.pack(), payload)

    def send_bytes(self, front: bytes, payload: bytes = b"") -> None:
        slot = self.free_slot()
        offset = self.transmit_area + slot * (PACKET_BYTES + 64)
        data = front + payload
        self.memory[offset : offset + len(data)] = data
        address = GUEST_BASE + offset
        if self.one_descriptor or not payload:
            self.send_chain(slot, [(address, len(data), 0, 0)])
        else:
            self.send_chain(
                slot,
                [
                    (address, len(front), NEXT, 2 * slot + 1),
                    (address + len(front), len(payload), 0, 0),
                ],
            )

    def send_chain(self, slot: int, descriptors: list[Descriptor]) -> None:
        """Send any one or two descriptors, at 2 * slot and 2 * slot + 1."""
        for index, descriptor in enumerate(descriptors):
            self.transmit.write_descriptor(2 * slot + index, descriptor)
        self.transmit.offer(2 * slot)
        self.transmit.kick()

    def free_slot(self) -> int:
        """A slot of the transmit queue that the device does not own."""
        while True:
            while (element := self.transmit.take()) is not None:
                self._free.append(element[0] // 2)
            if self._free:
                return self._free.pop()
            self.transmit.wait()

    def wait_until_sent(self) -> None:
        """Until the device has given back everything that was sent."""
        slots: list[int] = []
        while len(slots) < QUEUE_SIZE // 2:
            slots.append(self.free_slot())
        self._free = slots

    # Streams

    def request(self, host_port: int, *, buffer_size: int = 256 * 1024) -> Stream:
        """Ask for a stream to a port of the host; the answer is in `Stream.operations`."""
        self.next_port += 1
        stream = Stream(self, self.next_port, host_port, buffer_size=buffer_size)
        self.streams[stream.guest_port, host_port] = stream
        stream.packet(OP_REQUEST)
        return stream

    def connect(self, host_port: int, *, buffer_size: int = 256 * 1024) -> Stream:
        """An open stream to a port of the host."""
        stream = self.request(host_port, buffer_size=buffer_size)
        self.wait_for(lambda: stream.operations)
        assert stream.operations[0] == OP_RESPONSE
        return stream

    def listen(self, port: int) -> deque[Stream]:
        """Accept what the host opens to ``port``; refuse the rest."""
        accepted: deque[Stream] = deque()

        def answer(header: Header) -> Stream | None:
            stream = Stream(self, header.destination_port, header.source_port)
            if header.destination_port != port:
                stream.packet(OP_RST)
                return None
            self.streams[stream.guest_port, stream.host_port] = stream
            accepted.append(stream)
            stream.packet(OP_RESPONSE)
            return stream

        self.on_request = answer
        return accepted


def pattern(offset: int, size: int) -> bytes:
    """Bytes that differ by position: ``size`` of them from ``offset`` on."""
    start = offset % 251
    return (_CYCLE * (size // 251 + 2))[start : start + size]


_CYCLE: Final = bytes(range(251))
