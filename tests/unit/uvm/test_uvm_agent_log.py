"""The log of a VM's agent: bounded, and whole for whoever reads it fast enough."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from uvm.errors import UvmError
from uvm.keeper.agent_log import AgentLog
from uvm.keeper.channel import Channel, accepted
from uvm.keeper.messages import Answer, Done, Text
from uvm.logs import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 200_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AgentLog]:
    log = AgentLog(tmp_path / "guest.log", LIMIT)
    yield log
    log.close()


def write(log: AgentLog, *numbers: int) -> None:
    for number in numbers:
        log.write(LogEntry("info", f"entry {number} " + "ü" * 500))


def file_sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


class Reader:
    """Whoever reads the log, at the other end of a channel."""

    def __init__(self, log: AgentLog, *, follow: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # As little as possible is on its way.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        self._channel = Channel(ours, msgspec.json.Decoder(Answer))
        self._theirs = accepted(theirs)
        self.sending = asyncio.create_task(log.send(self._theirs, follow=follow))
        self.text = ""

    async def more(self) -> bool:
        """Receive once; False at the end."""
        answer, _ = await self._channel.receive()
        if isinstance(answer, Text):
            self.text += answer.text
        return not isinstance(answer, Done)

    async def until(self, number: int) -> None:
        while f"entry {number} " not in self.text or not self.text.endswith("\n"):
            assert await self.more()

    async def close(self) -> None:
        self._channel.close()
        await asyncio.wait({self.sending})
        self._theirs.close()

    @property
    def numbers(self) -> list[int]:
        return [int(msgspec.json.decode(line)["msg"].split()[1]) for line in self.text.splitlines()]


async def test_what_there_is(log: AgentLog) -> None:
    write(log, *range(150))
    reader = Reader(log, follow=False)
    await asyncio.sleep(0)
    write(log, 150)  # comes too late
    while await reader.more():
        pass
    assert reader.numbers == list(range(150))
    await reader.close()


async def test_no_more_is_kept_than_the_limit_twice(log: AgentLog, tmp_path: Path) -> None:
    write(log, *range(1000))
    sizes = file_sizes(tmp_path)
    assert sorted(sizes) == ["guest.log", "guest.log.old"]
    assert max(sizes.values()) <= LIMIT
    reader = Reader(log, follow=False)
    while await reader.more():
        pass
    assert reader.numbers == list(range(reader.numbers[0], 1000))
    assert reader.numbers[0] < 850
    await reader.close()


async def test_a_reader_follows_from_file_to_file(log: AgentLog) -> None:
    write(log, 0)
    reader = Reader(log, follow=True)
    for number in range(1, 1000):
        write(log, number)
        if number % 50 == 0:
            await reader.until(number)
    await reader.until(999)
    assert reader.numbers == list(range(1000))
    await reader.close()
    await reader.sending


async def test_a_reader_that_is_too_slow_is_told(log: AgentLog) -> None:
    write(log, *range(300))
    reader = Reader(log, follow=True)
    await reader.more()
    write(log, *range(300, 2000))
    reading = asyncio.create_task(reader.until(2000))
    with pytest.raises(UvmError, match="grown faster than it was read"):
        await reader.sending
    reading.cancel()
    await reader.close()
