"""Bounds how many calls of the container runtime run at once, by the memory of the VM.

A call takes some 8 MiB for a moment, outside of the containers' share of the memory, and as much
again within it.  Fifty at once in a VM of 1 GiB would push everything else out, and a host that
waits for them gains nothing from it: the processors are busy with far fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from gcs.cgroup.limits import available_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

#: Memory of the VM, in bytes, for each call that may run.
MEMORY_OF_CALL: Final = 192 << 20
#: Calls that may run however little memory there is.
FEWEST: Final = 2
#: Seconds after which a call may count no more: it has its memory, and may wait for something, such
#: as a hook of the container that only ends after another call.  In a VM whose processors are busy
#: a call takes that long, too, and there all the others must not start on top: see `IDLE`, `ROOM`.
LONGEST_TURN: Final = 10.0
#: Processors that have been idle meanwhile, at least, if it is waiting that takes so long.
IDLE: Final = 0.5
#: Seconds after which a call may count no more though the processors are busy.
LONGEST_BUSY_TURN: Final = 60.0
#: Memory of the VM, in bytes, that has to be available for one more call than there are turns.
ROOM: Final = 128 << 20
#: Seconds from one such call to the next: it takes its memory meanwhile.
PACE: Final = 1.0


def calls_at_once(memory: int) -> int:
    """Return how many calls may run at once in a VM with so much memory, in bytes."""
    return max(FEWEST, memory // MEMORY_OF_CALL)


def has_room() -> bool:
    """Return whether the VM has memory for one more call than there are turns."""
    return available_memory() >= ROOM


def idle_time() -> float:
    """Return how long the processors of the VM have been idle, all together, in seconds."""
    with open("/proc/stat", encoding="ascii") as file:
        # cpu  user nice system idle iowait …, proc_stat(5)
        fields = file.readline().split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


class Turns:
    """Turns to be taken, in the order of asking.

    Args:
        count: How many there are at once.
        longest: Seconds after which a turn is over for those who wait, though not for its owner,
            provided that the processors are idle, and that there is room.
        longest_busy: Seconds after which busy processors are no reason any more.
        idle: Returns how long the processors have been idle, in seconds.
        room: Whether there is, for one more.
        pace: Seconds from one turn that is over to the next, and after which to look again.
    """

    __slots__ = ("_idle", "_longest", "_longest_busy", "_next", "_pace", "_room", "_semaphore")

    def __init__(
        self,
        count: int,
        *,
        longest: float = LONGEST_TURN,
        longest_busy: float = LONGEST_BUSY_TURN,
        idle: Callable[[], float] = idle_time,
        room: Callable[[], bool] = has_room,
        pace: float = PACE,
    ) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._longest = longest
        self._longest_busy = longest_busy
        self._idle = idle
        self._room = room
        self._pace = pace
        self._next = 0.0

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs."""
        await self._semaphore.acquire()
        over = contextlib.ExitStack()
        over.callback(self._semaphore.release)
        watch = asyncio.create_task(self._give_up(over))
        try:
            yield
        finally:
            watch.cancel()
            over.close()  # does nothing the second time

    async def _give_up(self, over: contextlib.ExitStack) -> None:
        """Let the next one have the turn of a call that takes too long."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._longest)
        # Few calls come that far; the others need not know how busy the processors are.
        began, idle = clock(), self._idle()
        while True:
            await asyncio.sleep(self._pace)
            now = clock()
            waits = self._idle() - idle >= IDLE * (now - began)
            patient = now - began >= self._longest_busy - self._longest
            if (waits or patient) and self._may_grow(now):
                over.close()
                return

    def _may_grow(self, now: float) -> bool:
        # While nobody waits there is no hurry.
        if now < self._next or not self._semaphore.locked() or not self._room():
            return False
        self._next = now + self._pace
        return True
