"""Credit arithmetic at the edge where the 32-bit counters wrap."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from uvm.vsock.connection import COUNTER_MASK, Connection
from uvm.vsock.device import VsockDevice
from uvm.vsock.loop import EventLoop
from uvm.vsock.packet import OP_CREDIT_UPDATE, TYPE_STREAM, Header

if TYPE_CHECKING:
    from collections.abc import Iterator


class Rig:
    """A connection with a socket pair for its host, and no guest."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.device = VsockDevice(self.loop, 3, "/nonexistent")
        ours, self.host = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(self.device, ours, 7000, 1024)

    def credit(self, buffer_size: int, forwarded: int) -> None:
        packet = Header(
            3, 2, 1024, 7000, 0, TYPE_STREAM, OP_CREDIT_UPDATE, 0, buffer_size, forwarded
        )
        self.connection.update_credit(packet)

    def close(self) -> None:
        self.connection.abort()
        self.loop.close_all()
        self.host.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@given(
    forwarded=st.integers(0, COUNTER_MASK),
    outstanding=st.integers(0, 1 << 20),
    size=st.integers(0, 1 << 20),
)
def test_credit_is_room_less_what_is_on_its_way(
    rig: Rig, forwarded: int, outstanding: int, size: int
) -> None:
    rig.connection.sent = (forwarded + outstanding) & COUNTER_MASK
    rig.credit(size, forwarded)
    assert rig.connection.credit == size - outstanding


def test_forwarded_wraps_in_packets() -> None:
    rig = Rig()
    rig.credit(65536, 0)
    rig.connection.accept()
    rig.connection.forwarded = COUNTER_MASK - 2
    data = memoryview(b"hello")
    rig.connection.on_data([data[:2], data[2:]], 5)
    assert rig.host.recv(10) == b"hello"
    assert Header.unpack(rig.connection.header(OP_CREDIT_UPDATE)).forwarded == 2
    rig.close()
