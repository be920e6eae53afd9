"""A file that gets a copy of a container's output (spec 4.2 step 10, 4.9)."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: With so much still to be written the streams have to wait (bytes).
BACKLOG_LIMIT: Final = 256 * 1024


class TeeLog:
    """Appends to a file what the streams of one process carry, in the order it was read.

    Each byte comes once, whatever becomes of the connections to the host.  When the file can't be
    written (disk full), bytes are missing from it, and the streams go on; the first failure is
    logged.

    A thread of the loop's pool writes: a write into the page cache takes microseconds, but blocks
    for seconds once the disk can't follow.  One write is under way at a time, and takes along what
    has come up meanwhile.

    Args:
        descriptor: A file opened for appending, owned from now on.
        path: For the log.
    """

    __slots__ = (
        "_backlog",
        "_closed",
        "_descriptor",
        "_idle",
        "_loop",
        "_missing",
        "_path",
        "_size",
        "_waiting",
    )

    def __init__(self, descriptor: int, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._path = path
        self._backlog: list[bytes] = []
        self._size = 0
        self._missing = 0
        self._closed = False
        self._waiting: list[Callable[[], None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, data: bytes) -> bool:
        """Take bytes to be written; return whether there is room for more at once."""
        self._backlog.append(data)
        self._size += len(data)
        if self._idle.is_set():
            self._idle.clear()
            self._write_backlog()
        return self._size < BACKLOG_LIMIT

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, when there is room again."""
        self._waiting.append(callback)

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is written, at most `seconds`; return whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%s: not all is written after %g s", self._path, seconds)
            return False
        return True

    def close(self) -> None:
        """Close the file as soon as everything is written; may be called again."""
        self._closed = True
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        if self._closed and self._idle.is_set() and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if self._missing:
                logger.warning("%s: %d bytes are missing", self._path, self._missing)

    def _write_backlog(self) -> None:
        pieces, self._backlog = self._backlog, []
        self._size = 0
        job = self._loop.run_in_executor(None, _write_all, self._descriptor, b"".join(pieces))
        job.add_done_callback(self._written)

    def _written(self, job: asyncio.Future[tuple[int, OSError | None]]) -> None:
        missing, error = job.result()
        if error is not None:
            if not self._missing:
                logger.warning("%s: cannot write, output will be missing: %s", self._path, error)
            self._missing += missing
        if self._backlog:
            self._write_backlog()
        else:
            self._idle.set()
            self._close_when_idle()
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


def _write_all(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write all, or return how many bytes are missing, and why."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            return len(rest), error
    return 0, None
