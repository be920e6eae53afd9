"""The last bytes of a stream."""

from __future__ import annotations

from hypothesis import given, strategies as st

from gcs.stdio.replay_buffer import ReplayBuffer


@given(
    st.integers(min_value=1, max_value=50),
    st.lists(st.binary(max_size=80), max_size=40),
)
def test_exactly_the_last_bytes_are_kept_in_order(size: int, pieces: list[bytes]) -> None:
    buffer = ReplayBuffer(size)
    written = b""
    for number, piece in enumerate(pieces):
        buffer.append(memoryview(piece) if number % 2 else piece)
        written += piece
        assert buffer.tail() == written[-size:]
        assert len(buffer._bytes) <= size + size // 4


def test_what_is_cleared_is_gone() -> None:
    buffer = ReplayBuffer(10)
    buffer.append(b"abc")
    buffer.clear()
    assert buffer.tail() == b""
    buffer.append(b"def")
    assert buffer.tail() == b"def"
