"""What several connections carried of one stream, put together."""

from __future__ import annotations

from hypothesis import given, strategies as st

from uvm.recovery import join_replayed

LINES = b"".join(b"line %d\n" % number for number in range(400))
#: What an agent repeats, and what can be lost with a connection, at most.
REPEATED, LOST = 1000, 500
PLACES = st.integers(0, len(LINES))


def test_one_connection() -> None:
    assert join_replayed([LINES]) == LINES
    assert join_replayed([]) == b""


def test_nothing_repeated_and_all_repeated() -> None:
    assert join_replayed([LINES[:10], LINES[10:]]) == LINES
    assert join_replayed([LINES[:10], LINES]) == LINES
    assert join_replayed([LINES, LINES]) == LINES


def test_a_repetition_that_was_cut_off() -> None:
    assert join_replayed([LINES[:100], LINES[20:60], b"", LINES[20:]]) == LINES


def test_what_is_missing_stays_missing() -> None:
    assert join_replayed([b"one\ntwo\n", b"four\n"]) == b"one\ntwo\nfour\n"


@given(st.lists(st.tuples(st.integers(0, LOST), PLACES), max_size=8))
def test_any_losses(losses: list[tuple[int, int]]) -> None:
    """A connection that is lost takes some bytes along; the next one begins before those."""
    parts, sent = [LINES[:50]], 50
    for lost, carried in losses:
        start = max(0, sent - REPEATED)
        sent = max(sent, min(len(LINES), start + carried))
        parts.append(LINES[start : min(start + carried, max(start, sent - lost))])
    parts.append(LINES[max(0, sent - REPEATED) :])
    assert join_replayed(parts) == LINES
