"""What the relay keeps for a host that is away."""

from __future__ import annotations

from hypothesis import given, strategies as st

from gcs.init.relay import OutputBuffer


def unsent(buffer: OutputBuffer) -> bytes:
    with buffer.unsent() as data:
        return bytes(data)


def test_new_connection_begins_with_the_line_that_was_cut() -> None:
    buffer = OutputBuffer()
    buffer.append(b"one\ntwo\nthree\n")
    buffer.mark_sent(6)
    assert unsent(buffer) == b"o\nthree\n"
    buffer.restart()
    assert unsent(buffer) == b"two\nthree\n"
    buffer.mark_sent(4)
    buffer.restart()
    assert unsent(buffer) == b"three\n"


def test_oldest_whole_lines_are_dropped_and_counted() -> None:
    buffer = OutputBuffer(limit=10)
    buffer.append(b"first\nsecond\nthird\n")
    buffer.drop_oldest()
    assert unsent(buffer) == b"third\n"
    assert buffer.dropped == 2
    assert not buffer.full


def test_bytes_without_lines_do_not_pile_up() -> None:
    buffer = OutputBuffer(limit=10)
    buffer.append(b"x" * 25)
    buffer.drop_oldest()
    assert (len(buffer), buffer.dropped) == (0, 1)
    buffer = OutputBuffer()
    buffer.append(b"x" * 100_000)
    buffer.mark_sent(90_000)
    buffer.restart()
    assert len(buffer) == 10_000


@given(
    lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n")),
    steps=st.lists(st.tuples(st.integers(1, 30), st.booleans())),
)
def test_every_line_arrives_whole_on_some_connection(
    lines: list[bytes], steps: list[tuple[int, bool]]
) -> None:
    buffer = OutputBuffer()
    buffer.append(b"".join(lines))
    connections = [b""]
    for size, lost in steps:
        piece = unsent(buffer)[:size]
        connections[-1] += piece
        buffer.mark_sent(len(piece))
        if lost:
            buffer.restart()
            connections.append(b"")
    connections[-1] += unsent(buffer)
    # Half a line can only be the last of a connection.
    whole = [line for part in connections for line in part.split(b"\n")[:-1]]
    assert whole == [line[:-1] for line in lines]
