"""Frame headers and message types (spec 1.2, 1.3)."""

from __future__ import annotations

import pytest

from gcs.protocol.errors import FramingError
from gcs.protocol.frame import (
    HEADER_SIZE,
    MAX_TO_GUEST,
    MAX_TO_HOST,
    MessageType,
    decode_header,
    encode_frame,
    is_response,
    response_type,
    type_name,
)


def test_the_worked_example_of_a_header() -> None:
    """Appendix A.1: a negotiation of 132 bytes."""
    frame = encode_frame(MessageType.NEGOTIATE_PROTOCOL, 0, b"x" * 132, limit=MAX_TO_HOST)
    assert frame[:HEADER_SIZE] == bytes.fromhex("010b1010 94000000 0000000000000000")
    header = decode_header(frame, limit=MAX_TO_HOST)
    assert header.type == MessageType.NEGOTIATE_PROTOCOL
    assert (header.size, header.body_size, header.id) == (148, 132, 0)
    assert repr(header) == "Header(Request/NegotiateProtocol, size=148, id=0)"


@pytest.mark.parametrize("sequence", [0, 1, 1 << 63, (1 << 64) - 1])
def test_all_64_bits_of_an_id_survive(sequence: int) -> None:
    frame = encode_frame(MessageType.START, sequence, b"", limit=MAX_TO_HOST)
    assert decode_header(frame, limit=MAX_TO_HOST).id == sequence


@pytest.mark.parametrize("size", [0, 1, 15, MAX_TO_GUEST + 1, 0xFFFF_FFFF])
def test_absurd_sizes_are_refused(size: int) -> None:
    header = (0x10100201).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(8)
    with pytest.raises(FramingError, match=f"Request/Start claims {size} bytes"):
        decode_header(header, limit=MAX_TO_GUEST)


@pytest.mark.parametrize("size", [HEADER_SIZE, MAX_TO_GUEST])
def test_the_limits_themselves_are_good(size: int) -> None:
    header = (0x10100201).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(8)
    assert decode_header(header, limit=MAX_TO_GUEST).size == size


def test_nothing_longer_than_the_host_takes_is_made() -> None:
    encode_frame(MessageType.START, 0, bytes(MAX_TO_HOST - HEADER_SIZE), limit=MAX_TO_HOST)
    with pytest.raises(FramingError):
        encode_frame(MessageType.START, 0, bytes(MAX_TO_HOST - HEADER_SIZE + 1), limit=MAX_TO_HOST)


@pytest.mark.parametrize(
    ("request_type", "expected"),
    [
        (0x10100101, 0x20100101),
        (0x00000000, 0x20000000),
        (0x20100201, 0x20100201),
        (0x30100101, 0x20100101),
        (0xFFFFFFFF, 0x2FFFFFFF),
    ],
)
def test_the_type_of_the_answer(request_type: int, expected: int) -> None:
    assert response_type(request_type) == expected
    assert is_response(expected)
    assert not is_response(0x10100101)


@pytest.mark.parametrize(
    ("message_type", "name"),
    [
        (0x10100101, "Request/Create"),
        (0x20100A01, "Response/ModifySettings"),
        (0x30100101, "Notification"),
        (0x10100F01, "0x10100f01"),
        (0x30100201, "0x30100201"),
        (0, "0x00000000"),
    ],
)
def test_names_for_people(message_type: int, name: str) -> None:
    assert type_name(message_type) == name
