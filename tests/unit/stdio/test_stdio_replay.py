"""The last bytes of a stream."""

from __future__ import annotations

import os

from hypothesis import example, given, strategies as st

from gcs.stdio.replay_buffer import BLOCK, ReplayBuffer

SAMPLE = os.urandom(1 << 20)


@given(
    st.one_of(st.integers(1, 100), st.integers(1, 4 * BLOCK)),
    st.lists(st.one_of(st.integers(0, 300), st.integers(0, 5 * BLOCK)), max_size=40),
)
@example(11367, [8067, 300, 290, 7729, 11366])  # was more than the bound
def test_exactly_the_last_bytes_are_kept_in_order(size: int, lengths: list[int]) -> None:
    buffer = ReplayBuffer(size)
    assert not buffer
    written = b""
    for number, length in enumerate(lengths):
        start = len(written) % (len(SAMPLE) // 2)
        piece = SAMPLE[start : start + length]
        buffer.append(memoryview(piece) if number % 2 else piece)
        written += piece
        assert buffer.tail() == written[-size:]
        assert bool(buffer) == bool(written)
        assert buffer._held <= max(2 * size, size + BLOCK)


def test_what_is_cleared_is_gone() -> None:
    buffer = ReplayBuffer(10)
    buffer.append(b"abc")
    buffer.clear()
    assert buffer.tail() == b""
    buffer.append(b"def")
    assert buffer.tail() == b"def"
