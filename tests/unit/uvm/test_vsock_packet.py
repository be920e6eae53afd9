"""The packet header against the bytes of the specification."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from uvm.vsock.packet import HEADER_SIZE, OP_REQUEST, OP_RST, OP_RW, Header, reset_reply


def test_layout() -> None:
    """Offsets of virtio 1.2, 5.10.6."""
    data = Header(3, 2, 1024, 0x40000000, 5, 1, OP_RW, 2, 262144, 77).pack()
    assert len(data) == HEADER_SIZE == 44
    assert struct.unpack_from("<Q", data, 0) == (3,)
    assert struct.unpack_from("<Q", data, 8) == (2,)
    assert struct.unpack_from("<I", data, 16) == (1024,)
    assert struct.unpack_from("<I", data, 20) == (0x40000000,)
    assert struct.unpack_from("<I", data, 24) == (5,)
    assert struct.unpack_from("<H", data, 28) == (1,)
    assert struct.unpack_from("<H", data, 30) == (5,)
    assert struct.unpack_from("<I", data, 32) == (2,)
    assert struct.unpack_from("<I", data, 36) == (262144,)
    assert struct.unpack_from("<I", data, 40) == (77,)


@given(st.binary(min_size=44, max_size=60))
def test_every_header_survives_a_round_trip(data: bytes) -> None:
    assert Header.unpack(data).pack() == data[:44]


def test_too_short() -> None:
    with pytest.raises(struct.error):
        Header.unpack(bytes(43))


def test_reset_goes_back_to_the_sender() -> None:
    packet = Header(3, 2, 1024, 9, 0, 1, OP_REQUEST, 0, 1, 1)
    assert Header.unpack(reset_reply(packet)) == Header(2, 3, 9, 1024, 0, 1, OP_RST, 0, 0, 0)


def test_text_names_the_operation() -> None:
    packet = Header(3, 2, 1024, 9, 0, 1, OP_REQUEST, 0, 1, 1)
    assert str(packet) == "REQUEST 3:1024 -> 2:9, 0 bytes"
    assert str(packet._replace(operation=42)).startswith("operation 42 ")
