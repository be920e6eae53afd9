"""Times between tar archives and inodes.

A time is a pair (seconds since 1970, nanoseconds), or None where none is known. In an inode it is
64 bits: 34 bits of seconds, 30 bits of nanoseconds.
"""

from __future__ import annotations

from typing import Final

Time = tuple[int, int]

#: The first second of the year 1, which archives cannot tell from "no time".
YEAR_ONE: Final = -62135596800
_NANOSECONDS: Final = 1_000_000_000
_OLDEST: Final = -0x80000000
_NEWEST: Final = 0x37FFFFFFF
_SECONDS_MASK: Final = 0x3FFFFFFFF
_UINT64: Final = (1 << 64) - 1


def make_time(seconds: int, nanoseconds: int = 0) -> Time:
    """A time whose nanoseconds are within [0, 10⁹)."""
    if not nanoseconds:
        return seconds, 0
    carry, nanoseconds = divmod(nanoseconds, _NANOSECONDS)
    return seconds + carry, nanoseconds


def encode(time: Time | None) -> int:
    """The 64 bits of a time in an inode; out of range, the nearest that can be had.

    A time before 1970 sets all higher bits, its nanoseconds too: that is what the reference
    writes.
    """
    if time is None:
        return 0
    seconds, nanoseconds = time
    if seconds >= 0:
        return seconds | nanoseconds << 34 if seconds <= _NEWEST else _NEWEST
    if seconds == YEAR_ONE and nanoseconds == 0:
        return 0
    if seconds < _OLDEST:
        return 0x80000000
    return (seconds & _UINT64) | (nanoseconds << 34)


def encode_for_kernel(time: Time | None) -> int:
    """As `encode`, but as a kernel reads it: 32 bits with a sign, and how often to add 2³²."""
    if time is None or time == (YEAR_ONE, 0):
        return 0
    seconds = min(max(time[0], _OLDEST), _NEWEST)
    nanoseconds = time[1] if seconds == time[0] else 0
    low = _signed(seconds & 0xFFFFFFFF)
    return (seconds & 0xFFFFFFFF) | (seconds - low) | nanoseconds << 34


def decode_from_kernel(encoded: int) -> Time | None:
    """The time that `encode_for_kernel` gave these bits."""
    if encoded == 0:
        return None
    return _signed(encoded & 0xFFFFFFFF) + (encoded & 0x300000000), encoded >> 34


def _signed(word: int) -> int:
    return word - (1 << 32) if word & 0x80000000 else word


def decode(encoded: int) -> Time | None:
    """The time that the 64 bits in an inode stand for."""
    if encoded == 0:
        return None
    seconds = encoded & _SECONDS_MASK
    if 0x7FFFFFFF < seconds < 0x100000000:
        seconds -= 0x100000000
    return make_time(seconds, encoded >> 34)
