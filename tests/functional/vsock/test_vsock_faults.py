"""Guests and front-ends that break the rules: the vsock device goes on serving."""

from __future__ import annotations

import socket
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support.vsock_device import PORT, Device, assert_serves, connected, receive
from tests.support.vsock_driver import (
    GUEST_BASE,
    GUEST_CID,
    INDIRECT,
    MEMORY_SIZE,
    NEXT,
    PATIENCE,
    QUEUE_SIZE,
    WRITE,
    Guest,
)
from uvm.vsock import vhost_user as vu
from uvm.vsock.packet import HEADER_SIZE, HOST_CID, OP_RST, OP_RW, TYPE_STREAM, Header

if TYPE_CHECKING:
    from pathlib import Path


def malformed_chains() -> dict[str, list[tuple[int, int, int, int]]]:
    """Descriptors for slot 0 that no device can follow."""
    data = GUEST_BASE + 0x200000
    return {
        "below memory": [(0, HEADER_SIZE, 0, 0)],
        "behind memory": [(GUEST_BASE + MEMORY_SIZE, HEADER_SIZE, 0, 0)],
        "across the end": [(GUEST_BASE + MEMORY_SIZE - 10, HEADER_SIZE, 0, 0)],
        "wraps around": [(2**64 - 10, HEADER_SIZE, 0, 0)],
        "huge": [(data, 0xFFFFFFFF, 0, 0)],
        "loop": [(data, HEADER_SIZE, NEXT, 0)],
        "next too large": [(data, HEADER_SIZE, NEXT, 60000)],
        "writable": [(data, HEADER_SIZE, WRITE, 0)],
        "short header": [(data, HEADER_SIZE - 1, 0, 0)],
        "empty": [(data, 0, 0, 0)],
        "indirect outside": [(GUEST_BASE + MEMORY_SIZE, 32, INDIRECT, 0)],
        "indirect of odd size": [(data, 17, INDIRECT, 0)],
        "indirect of no size": [(data, 0, INDIRECT, 0)],
        "indirect and next": [(data, 16, INDIRECT | NEXT, 1)],
    }


@pytest.mark.parametrize("kind", malformed_chains())
def test_malformed_chain_is_given_back(device: Device, guest: Guest, kind: str) -> None:
    guest.wait_until_sent()
    guest._free.remove(0)
    guest.send_chain(0, malformed_chains()[kind])
    guest.wait_until_sent()
    assert_serves(device, guest, PORT)


def test_indirect_chain(device: Device, guest: Guest) -> None:
    stream, host = connected(device, guest)
    header = Header(GUEST_CID, HOST_CID, stream.guest_port, PORT, 6, TYPE_STREAM, OP_RW, 0, 9, 0)
    table, data = 0x200000, 0x201000
    guest.memory[data : data + 50] = header.pack() + b"pieces"
    # The header in two pieces too: legal, if unheard of.
    cuts = [0, 20, 44, 47, 50]
    for index, (begin, end) in enumerate(pairwise(cuts)):
        flags = NEXT if end != 50 else 0
        struct.pack_into(
            "<QIHH", guest.memory, table + 16 * index,
            GUEST_BASE + data + begin, end - begin, flags, index + 1,
        )  # fmt: skip
    guest.send_chain(guest.free_slot(), [(GUEST_BASE + table, 64, INDIRECT, 0)])
    assert receive(host, 6) == b"pieces"


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"length": 1000}, OP_RST),
        ({"length": 0xFFFFFFFF}, OP_RST),
        ({"source_cid": 77}, None),
        ({"destination_cid": 77}, OP_RST),
        ({"type": 2}, OP_RST),
        ({"operation": 0}, OP_RST),
        ({"operation": 8}, OP_RST),
    ],
)
def test_bad_header(
    device: Device, guest: Guest, change: dict[str, int], answer: int | None
) -> None:
    stream, _ = connected(device, guest)
    header = Header(
        GUEST_CID, HOST_CID, stream.guest_port, PORT, 5, TYPE_STREAM, OP_RW, 0, 65536, 0
    )
    guest.send_packet(header._replace(**change), b"hello")
    if answer is not None:
        guest.wait_for(
            lambda: stream.reset or answer in [header.operation for header in guest.strays]
        )
    guest.wait_until_sent()
    assert_serves(device, guest, PORT + 1)


def test_malformed_receive_buffers_are_passed_over(device: Device, guest: Guest) -> None:
    guest.stop()
    guest._reset_driver = lambda: None  # type: ignore[method-assign]
    guest.receive.reset()
    guest.transmit.reset()
    for slot in range(4):
        bad = [
            (0, 4096, WRITE, 0),
            (GUEST_BASE, 4096, 0, 0),
            (GUEST_BASE + 0x200000, HEADER_SIZE, WRITE, 0),
            (GUEST_BASE + 0x200000, 10, WRITE, 0),
        ][slot]
        guest.receive.write_descriptor(2 * slot, bad)
        guest.receive.offer(2 * slot)
    for slot in range(4, QUEUE_SIZE // 2):
        guest._offer_buffer(slot)
    guest._free = list(range(QUEUE_SIZE // 2))
    guest.start()
    stream = guest.request(PORT)
    elements: list[tuple[int, int]] = []
    while len(elements) < 5:
        element = guest.receive.take()
        if element is None:
            guest.receive.wait()
        else:
            elements.append(element)
    assert [written for _, written in elements] == [0, 0, 0, 0, HEADER_SIZE]
    assert stream.operations == []


@pytest.mark.parametrize("ring", ["receive", "transmit"])
@pytest.mark.parametrize("damage", ["head", "index"])
def test_inconsistent_ring_lasts_until_reset(
    device: Device, guest: Guest, ring: str, damage: str
) -> None:
    _, host = connected(device, guest)
    broken = guest.receive if ring == "receive" else guest.transmit
    if damage == "index":
        broken.set_available_index((broken.next_available + QUEUE_SIZE * 3) & 0xFFFF)
    else:
        broken.offer(QUEUE_SIZE + 5)
    broken.kick()
    if ring == "transmit":
        assert receive(host, 1) == b""
    guest.stop()
    guest.start()
    assert_serves(device, guest, PORT + 1)


def test_questions_without_room_for_answers(device: Device, guest: Guest) -> None:
    """A guest that offers no buffers cannot make the device remember answers without end."""
    guest.withhold = True
    stray = Header(GUEST_CID, HOST_CID, 1, 1, 0, TYPE_STREAM, OP_RW, 0, 0, 0)
    count = 20000
    sent = 0
    while sent < count:
        guest._poll()
        while (element := guest.transmit.take()) is not None:
            guest._free.append(element[0] // 2)
        if guest._free:
            guest.send_packet(stray)
            sent += 1
        elif sent > 16000:
            break
        else:
            guest.transmit.wait()
    assert sent < count
    guest.release_buffers()
    guest.wait_for(lambda: len(guest.strays) == sent)
    assert_serves(device, guest, PORT)


@pytest.mark.parametrize(
    "message",
    [
        vu.MESSAGE_HEADER.pack(77, vu.VERSION, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_BASE, vu.VERSION, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_FEATURES, 2, 8),
        vu.MESSAGE_HEADER.pack(vu.SET_FEATURES, vu.VERSION, 1 << 30),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_NUM, vu.VERSION, 8) + vu.VRING_STATE.pack(9, 64),
        vu.MESSAGE_HEADER.pack(vu.SET_MEM_TABLE, vu.VERSION, 8) + vu.VRING_STATE.pack(1, 0),
        vu.MESSAGE_HEADER.pack(vu.SET_VRING_KICK, vu.VERSION, 8) + vu.U64.pack(vu.VRING_NO_FD),
    ],
    ids=["unknown", "empty", "version", "size", "queue", "no-memory-file", "no-kick-file"],
)
def test_bad_vhost_user_message_ends_the_connection(tmp_path: Path, message: bytes) -> None:
    device = Device(tmp_path, "--keep")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(device.socket))
        sock.sendall(message)
        assert receive(sock, 1) == b""
    assert_serves(device, device.guest(), PORT)
    device.close()
