"""The most recent bytes of a stream, to be sent again on a new connection."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Smaller pieces are joined to blocks of this size: each has an overhead.
BLOCK: Final = 16 * 1024


class ReplayBuffer:
    """Keeps exactly the last `size` bytes that were appended, in order.

    Big pieces are referred to, not copied.  At most twice `size` is held, or `size` and a block.

    Args:
        size: In bytes.
    """

    __slots__ = ("_held", "_joined", "_pieces", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: deque[bytes] = deque()
        self._joined = bytearray()
        self._held = 0

    def __bool__(self) -> bool:
        return self._held > 0

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes, and drop the oldest that are too many."""
        data = data[max(0, len(data) - self._size) :]
        if len(data) < BLOCK:
            if len(self._joined) + len(data) > BLOCK:  # else a block could be of nearly two
                self._close_block()
            self._joined += data
        else:
            self._close_block()
            self._pieces.append(bytes(data))
        self._held += len(data)
        if len(self._joined) >= BLOCK:
            self._close_block()
        while self._pieces and self._held - len(self._pieces[0]) >= self._size:
            self._held -= len(self._pieces.popleft())

    def tail(self) -> bytes:
        """Return the last `size` bytes, or all when there were fewer."""
        return b"".join((*self._pieces, self._joined))[-self._size :]

    def clear(self) -> None:
        """Forget all."""
        self._pieces.clear()
        self._joined = bytearray()
        self._held = 0

    def _close_block(self) -> None:
        if self._joined:
            self._pieces.append(bytes(self._joined))
            self._joined = bytearray()
