"""A byte stream is cut into frames, whatever the pieces."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from gcs.bridge.framing import FrameDecoder
from gcs.protocol.errors import FramingError

MEBIBYTE = 1 << 20


def frame(body: bytes, sequence: int = 0) -> bytes:
    return struct.pack("<IIQ", 0x10100201, 16 + len(body), sequence) + body


@given(
    bodies=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.lists(st.integers(1, 60), min_size=1),
)
def test_pieces_of_any_size_give_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(body, number) for number, body in enumerate(bodies))
    decoder = FrameDecoder()
    found = []
    position = turn = 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        found += list(decoder.feed(stream[position : position + step]))
        position, turn = position + step, turn + 1
    assert [(header.id, bytes(body)) for header, body in found] == list(enumerate(bodies))
    assert decoder.pending() == ""


@pytest.mark.parametrize("size", [65_536, MEBIBYTE, 3 * MEBIBYTE + 1])
def test_large_bodies_between_small_ones(size: int) -> None:
    decoder = FrameDecoder()
    large = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    stream = frame(b"first") + frame(large) + frame(b"last") + frame(b"")[:10]
    found = []
    for start in range(0, len(stream), 65_536):
        found += [bytes(body) for _, body in decoder.feed(stream[start : start + 65_536])]
    assert found == [b"first", large, b"last"]
    assert decoder.pending() == "10 of 16 bytes of a header"


def test_a_large_body_outlives_what_comes_behind_it() -> None:
    decoder = FrameDecoder()
    ((_, body),) = decoder.feed(frame(b"x" * MEBIBYTE))
    assert next(decoder.feed(frame(b"y")))[1] == b"y"
    assert bytes(body) == b"x" * MEBIBYTE


def test_what_is_unfinished_is_named() -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(frame(b"x" * 100)[:50])) == []
    assert decoder.pending() == "50 of 116 bytes of Header(Request/Start, size=116, id=0)"


@pytest.mark.parametrize("size", [0, 15, 101])
def test_frames_before_a_broken_one_are_delivered(size: int) -> None:
    decoder = FrameDecoder(limit=100)
    frames = decoder.feed(frame(b"good") + struct.pack("<IIQ", 1, size, 0))
    assert next(frames)[1] == b"good"
    with pytest.raises(FramingError):
        next(frames)


@given(st.binary(max_size=500))
def test_any_bytes_are_frames_or_a_framing_error(data: bytes) -> None:
    decoder = FrameDecoder(limit=400)
    try:
        sizes = [header.size for header, _ in decoder.feed(data)]
    except FramingError:
        return
    assert sum(sizes) <= len(data)
