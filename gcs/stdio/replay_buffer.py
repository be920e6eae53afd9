"""The most recent bytes of a stream, to be sent again on a new connection."""

from __future__ import annotations


class ReplayBuffer:
    """Keeps exactly the last `size` bytes that were appended, in order.

    Args:
        size: In bytes.  A quarter more may be held for a while, so that many small pieces don't
            move the rest each time.
    """

    __slots__ = ("_bytes", "_limit", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._limit = size + size // 4
        self._bytes = bytearray()

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes, and drop the oldest that are too many."""
        if len(data) >= self._size:
            self._bytes = bytearray(data[len(data) - self._size :])
            return
        self._bytes += data
        if len(self._bytes) > self._limit:
            del self._bytes[: len(self._bytes) - self._size]

    def tail(self) -> bytes:
        """Return the last `size` bytes, or all when there were fewer."""
        return bytes(self._bytes[max(0, len(self._bytes) - self._size) :])

    def clear(self) -> None:
        """Forget all."""
        self._bytes = bytearray()
