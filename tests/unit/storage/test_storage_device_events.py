"""Waiting for a device by events."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.storage.device_events import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def events() -> Iterator[tuple[socket.socket, Callable[[], socket.socket]]]:
    """A socket to announce with, and what opens the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with ours, theirs:
        yield ours, lambda: theirs


async def test_what_is_there_needs_no_events() -> None:
    def refuse() -> socket.socket:
        raise AssertionError("nobody has to wait")

    assert await wait_for(lambda: "sda", limit=0, open_events=refuse) == "sda"


async def test_looks_again_after_an_event(
    events: tuple[socket.socket, Callable[[], socket.socket]],
) -> None:
    announcer, open_events = events
    there: list[str] = []
    looks = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def look() -> str | None:
        loop.call_soon_threadsafe(looks.release)
        return there[0] if there else None

    waiting = asyncio.create_task(wait_for(look, limit=60, recheck=3600, open_events=open_events))
    await looks.acquire()
    await looks.acquire()
    announcer.send(b"add@/devices/unrelated")
    await looks.acquire()
    there.append("sdb")
    announcer.send(b"add@/devices/sdb")
    assert await waiting == "sdb"


async def test_looks_again_without_an_event() -> None:
    looks: Iterator[str | None] = iter([None, None, None, "sdc"])
    assert await wait_for(lambda: next(looks), limit=60, recheck=0.001) == "sdc"


async def test_ends_at_the_limit() -> None:
    def look() -> str | None:
        return None

    assert await wait_for(look, limit=0.01, recheck=3600) is None


async def test_an_error_of_the_look_ends_the_wait() -> None:
    looks = iter([None])

    def look() -> str | None:
        try:
            return next(looks)
        except StopIteration:
            raise ValueError("two disks") from None

    with pytest.raises(ValueError, match="two disks"):
        await wait_for(look, limit=60)
