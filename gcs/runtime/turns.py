"""Bounds how many calls of the container runtime run at once, by the memory of the VM.

A call takes some 8 MiB for a moment, outside of the containers' share of the memory, and as much
again within it.  Fifty at once in a VM of 1 GiB would push everything else out, and a host that
waits for them gains nothing from it: the processors are busy with far fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Memory of the VM, in bytes, for each call that may run.
MEMORY_OF_CALL: Final = 192 << 20
#: Calls that may run however little memory there is.
FEWEST: Final = 2
#: Seconds after which a call counts no more: it has its memory, and waits for something, such as a
#: hook of the container that only ends after another call.
LONGEST_TURN: Final = 10.0


def calls_at_once(memory: int) -> int:
    """Return how many calls may run at once in a VM with so much memory, in bytes."""
    return max(FEWEST, memory // MEMORY_OF_CALL)


class Turns:
    """Turns to be taken, in the order of asking.

    Args:
        count: How many there are at once.
        longest: Seconds after which a turn is over for those who wait, though not for its owner.
    """

    __slots__ = ("_longest", "_semaphore")

    def __init__(self, count: int, *, longest: float = LONGEST_TURN) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._longest = longest

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs."""
        await self._semaphore.acquire()
        over = contextlib.ExitStack()
        over.callback(self._semaphore.release)
        timer = asyncio.get_running_loop().call_later(self._longest, over.close)
        try:
            yield
        finally:
            timer.cancel()
            over.close()  # does nothing the second time
