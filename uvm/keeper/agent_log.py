"""The log of a VM's agent: two files of limited size, for those who read it now and later."""

import asyncio
import codecs
import contextlib
import os
from pathlib import Path
from typing import Any, Final

from uvm.errors import UvmError
from uvm.keeper.channel import Channel, ChannelClosedError
from uvm.keeper.messages import Done, Request, Text
from uvm.logs import LogEntry

#: Size from which on a new file is begun, in bytes; so twice as much is kept at most.
LOG_LIMIT: Final = 16 << 20
_PIECE: Final = 1 << 16


class AgentLog:
    """The agent's log. Nothing of it is kept in memory, however slow its readers are.

    Args:
        path: The file; when it is too long it becomes ``<path>.old``, instead of what was that.
        limit: See :data:`LOG_LIMIT`.
    """

    def __init__(self, path: Path, limit: int = LOG_LIMIT) -> None:
        self._path = path
        self._old_path = path.with_name(f"{path.name}.old")
        self._limit = limit
        self._file = path.open("w+b", buffering=0)
        self._old_path.unlink(missing_ok=True)
        # Positions count all bytes that were ever written.
        self._oldest = self._begin = self._end = 0
        self._news: set[asyncio.Event] = set()

    def write(self, entry: LogEntry) -> None:
        """Append an entry."""
        line = entry.to_json()
        if self._end - self._begin + len(line) > self._limit and self._end > self._begin:
            self._begin_anew()
        self._file.write(line)
        self._end += len(line)
        for news in self._news:
            news.set()

    async def send(self, channel: Channel[Request], *, follow: bool) -> None:
        """Send what there is, and with ``follow`` what comes.

        Raises:
            UvmError: The reader was so slow that what comes next for it is no longer there.
            ChannelClosedError: It has gone away.
        """
        # Pieces end anywhere: the reader puts the lines together again.
        decoder = codecs.getincrementaldecoder("utf-8")()
        position, end = self._oldest, self._end
        news = asyncio.Event()
        self._news.add(news)
        closed = asyncio.create_task(_until_closed(channel))
        try:
            while follow or position < end:
                news.clear()
                room = _PIECE if follow else min(_PIECE, end - position)
                if piece := self._read(position, room):
                    position += len(piece)
                    await channel.send(Text(decoder.decode(piece)))
                elif not await _comes_first(news, closed):
                    return
        finally:
            closed.cancel()
            self._news.discard(news)
        await channel.send(Done())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin_anew(self) -> None:
        self._file.close()
        os.replace(self._path, self._old_path)
        self._oldest, self._begin = self._begin, self._end
        self._file = self._path.open("w+b", buffering=0)

    def _read(self, position: int, room: int) -> bytes:
        if position < self._oldest:
            raise UvmError("the log has grown faster than it was read; read it again")
        if position >= self._begin:
            return os.pread(self._file.fileno(), room, position - self._begin)
        with self._old_path.open("rb") as old:
            return os.pread(old.fileno(), room, position - self._oldest)


async def _comes_first(news: asyncio.Event, closed: asyncio.Task[None]) -> bool:
    """Wait for one or the other; return whether there are news, and the channel is open."""
    waiting: asyncio.Task[Any] = asyncio.create_task(news.wait())
    await asyncio.wait({waiting, closed}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return not closed.done()


async def _until_closed(channel: Channel[Request]) -> None:
    with contextlib.suppress(ChannelClosedError):
        while True:
            await channel.receive()
