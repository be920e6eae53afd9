"""What several connections carried of one stream, put together."""

from __future__ import annotations

from hypothesis import given, strategies as st

from uvm.recovery import join_replayed

LINES = b"".join(b"line %d\n" % number for number in range(400))
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


@given(st.lists(st.tuples(PLACES, PLACES), max_size=8))
def test_any_losses(places: list[tuple[int, int]]) -> None:
    """A connection begins at or before the end of what has arrived, and is lost anywhere."""
    parts, arrived = [LINES[:50]], 50
    for back, length in places:
        start = max(0, arrived - back)
        parts.append(LINES[start : start + length])
        arrived = max(arrived, min(len(LINES), start + length))
    parts.append(LINES[max(0, arrived - 30) :])
    assert join_replayed(parts) == LINES
