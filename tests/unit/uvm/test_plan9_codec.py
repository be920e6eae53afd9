"""Messages of 9P2000.L on the wire."""

from __future__ import annotations

import struct
from typing import Any, get_type_hints

import pytest
from hypothesis import given, strategies as st

from uvm.plan9.codec import (
    HEADER,
    MalformedError,
    Message,
    Qid,
    decode,
    encode,
    layout,
)
from uvm.plan9.messages import (
    MESSAGES,
    Rgetattr,
    Rlerror,
    Rread,
    Rversion,
    Rwalk,
    Tattach,
    Tlcreate,
    Tlock,
    Tread,
    Tversion,
    Twalk,
    Twrite,
)

REQUESTS = sorted(number for number in MESSAGES if number % 2 == 0)

NUMBERS = {"B": 8, "H": 16, "I": 32, "Q": 64}
TEXT = st.binary(max_size=40)
QID = st.builds(
    Qid, st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXT,
    "data": st.binary(max_size=300),
    "qid": QID,
    "texts": st.lists(TEXT, max_size=16),
    "qids": st.lists(QID, max_size=16),
} | {code: st.integers(0, (1 << bits) - 1) for code, bits in NUMBERS.items()}


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(kind, include_extras=True)
    codes = [hints[name].__metadata__[0] for name in kind.__struct_fields__]
    return st.tuples(*(FIELDS[code] for code in codes)).map(lambda values: kind(*values))


ANY = st.sampled_from(sorted(MESSAGES)).flatmap(lambda number: messages(MESSAGES[number]))


@pytest.mark.parametrize(
    ("tag", "message", "frame"),
    [
        (0xFFFF, Tversion(65536, b"9P2000.L"), "15000000 64 ffff 00000100 0800 3950323030302e4c"),
        (0xFFFF, Rversion(4096, b"unknown"), "14000000 65 ffff 00100000 0700 756e6b6e6f776e"),
        (1, Rlerror(2), "0b000000 07 0100 02000000"),
        (
            2,
            Tattach(3, 0xFFFFFFFF, b"u", b"77", 1000),
            "1a000000 68 0200 03000000 ffffffff 0100 75 0200 3737 e8030000",
        ),
        (
            3,
            Twalk(1, 2, [b"a", b"bc"]),
            "18000000 6e 0300 01000000 02000000 0200 0100 61 0200 6263",
        ),
        (
            3,
            Rwalk([Qid(0x80, 5, 0x0102030405060708)]),
            "16000000 6f 0300 0100 80 05000000 0807060504030201",
        ),
        (4, Tread(1, 1 << 40, 16), "17000000 74 0400 01000000 0000000000010000 10000000"),
        (4, Rread(b"xyz"), "0e000000 75 0400 03000000 78797a"),
        (5, Twrite(1, 2, b"z"), "18000000 76 0500 01000000 0200000000000000 01000000 7a"),
        (
            6,
            Tlcreate(1, b"\xff", 0o102, 0o644, 7),
            "1a000000 0e 0600 01000000 0100 ff 42000000 a4010000 07000000",
        ),
        (
            7,
            Tlock(1, 1, 1, 0, 10, 99, b"h"),
            "27000000 34 0700 01000000 01 01000000"
            + "00" * 8
            + "0a"
            + "00" * 7
            + "630000000100 68",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
def test_frames_are_those_of_the_protocol(tag: int, message: Message, frame: str) -> None:
    assert encode(tag, message) == bytes.fromhex(frame)


def test_sizes_of_messages_without_strings() -> None:
    """From the kernel's formats: what it reads at fixed places."""
    size = {kind.__name__: _fixed_size(kind) for kind in MESSAGES.values()}
    assert size["Rgetattr"] == 8 + 13 + 3 * 4 + 15 * 8
    assert size["Tsetattr"] == 5 * 4 + 5 * 8
    assert size["Rstatfs"] == 3 * 4 + 6 * 8
    assert (size["Treaddir"], size["Rlopen"], size["Tfsync"]) == (16, 17, 8)


def _fixed_size(kind: type[Message]) -> int:
    blank = {"qid": Qid(0, 0, 0), "text": b"", "data": b"", "texts": [], "qids": []}
    hints = get_type_hints(kind, include_extras=True)
    codes = [hints[name].__metadata__[0] for name in kind.__struct_fields__]
    return len(encode(0, kind(*(blank.get(code, 0) for code in codes)))) - HEADER.size


def test_numbers_pair_requests_with_responses() -> None:
    for number in REQUESTS:
        request, response = MESSAGES[number].__name__, MESSAGES[number + 1].__name__
        assert (request[0], response[0], request[1:]) == ("T", "R", response[1:])


@given(ANY, st.integers(0, 0xFFFF))
def test_what_is_encoded_is_decoded(message: Message, tag: int) -> None:
    frame = encode(tag, message)
    assert HEADER.unpack_from(frame) == (len(frame), message.number, tag)
    assert decode(type(message), memoryview(frame)[HEADER.size :]) == message


@given(ANY, st.data())
def test_what_is_cut_or_longer_is_no_message(message: Message, data: st.DataObject) -> None:
    body = encode(1, message)[HEADER.size :]
    with pytest.raises(MalformedError, match="too many"):
        decode(type(message), memoryview(body + b"\0"))
    if body:
        end = data.draw(st.integers(0, len(body) - 1))
        with pytest.raises(MalformedError):
            decode(type(message), memoryview(body[:end]))


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(number: int, body: bytes) -> None:
    try:
        message = decode(MESSAGES[number], memoryview(body))
    except MalformedError:
        return
    assert encode(0, message)[HEADER.size :] == body


def test_more_names_than_a_walk_may_have() -> None:
    body = struct.pack("<IIH", 1, 2, 17) + b"\1\0x" * 17
    with pytest.raises(MalformedError, match="17 names"):
        decode(Twalk, memoryview(body))


def test_what_does_not_fit_is_not_encoded() -> None:
    for message in (Rlerror(1 << 32), Rlerror(-1), Tversion(1, b"x" * 65536)):
        with pytest.raises(MalformedError):
            encode(1, message)


def test_neighbouring_numbers_are_read_at_once() -> None:
    assert len(layout(Rgetattr)) == 3
    assert len(layout(Tread)) == 1
