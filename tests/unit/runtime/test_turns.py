"""How many calls of the container runtime run at once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gcs.cgroup.limits import available_memory, total_memory
from gcs.runtime.turns import ROOM, Turns, calls_at_once, has_room, idle_time

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "calls"), [(0, 2), (GIB // 2, 2), (GIB, 5), (3 * GIB, 16), (3 * GIB - 1, 15)]
)
def test_calls_by_memory(memory: int, calls: int) -> None:
    assert calls_at_once(memory) == calls


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_there_are_and_in_order() -> None:
    turns = Turns(2)
    running: list[int] = []
    ends = [asyncio.Event() for _ in range(4)]

    async def call(number: int) -> None:
        async with turns.taken():
            running.append(number)
            await ends[number].wait()

    tasks = [asyncio.create_task(call(number)) for number in range(4)]
    await settle()
    assert running == [0, 1]
    ends[1].set()
    await settle()
    assert running == [0, 1, 2]
    # Who gives up waiting takes no turn with it, nor does who fails.
    tasks[0].cancel()
    await settle()
    assert running == [0, 1, 2, 3]
    ends[2].set()
    ends[3].set()
    await asyncio.wait(tasks)
    async with turns.taken(), turns.taken():
        pass


async def test_who_waits_is_not_held_up_for_ever() -> None:
    turns = Turns(1, longest=0.01, pace=0.001, idle=time.monotonic, room=lambda: True)
    async with turns.taken(), turns.taken():
        pass
    # Each turn was given back once only.
    limited = Turns(1, longest=3600)
    async with limited.taken():
        waiting = asyncio.create_task(limited.taken().__aenter__())
        await settle()
        assert not waiting.done()
        waiting.cancel()


async def test_a_turn_that_was_given_up_is_not_given_back_again() -> None:
    turns = Turns(1, longest=0.01, pace=0.001, idle=time.monotonic, room=lambda: True)
    async with turns.taken(), turns.taken():
        pass
    order: list[str] = []
    end = asyncio.Event()

    async def call(name: str) -> None:
        async with turns.taken():
            order.append(name)
            await end.wait()

    turns._longest = 3600
    tasks = [asyncio.create_task(call(name)) for name in "ab"]
    await settle()
    assert order == ["a"]
    end.set()
    await asyncio.wait(tasks)
    assert order == ["a", "b"]


async def test_slow_calls_let_others_start_only_while_there_is_memory() -> None:
    """On busy processors every call takes long, and all of them at once take all the memory."""
    rooms = [False, False, True]
    turns = Turns(
        2, longest=0.01, pace=0.001, idle=time.monotonic, room=lambda: bool(rooms) and rooms.pop(0)
    )
    running: list[int] = []
    end = asyncio.Event()
    third = asyncio.Event()

    async def call(number: int) -> None:
        async with turns.taken():
            running.append(number)
            if number == 2:
                third.set()
            await end.wait()

    tasks = [asyncio.create_task(call(number)) for number in range(9)]
    await third.wait()
    assert rooms == []
    # There was room for one.
    await asyncio.sleep(0.05)
    assert running == [0, 1, 2]
    end.set()
    await asyncio.wait(tasks)
    assert running == list(range(9))


async def test_turns_are_given_up_one_after_another() -> None:
    turns = Turns(3, longest=0.01, pace=0.3, idle=time.monotonic, room=lambda: True)
    running: list[int] = []
    fourth = asyncio.Event()
    end = asyncio.Event()

    async def call(number: int) -> None:
        async with turns.taken():
            running.append(number)
            if number == 3:
                fourth.set()
            await end.wait()

    tasks = [asyncio.create_task(call(number)) for number in range(9)]
    await fourth.wait()
    await asyncio.sleep(0.05)
    assert running == [0, 1, 2, 3]
    end.set()
    await asyncio.wait(tasks)


def test_room_is_what_the_kernel_calls_available() -> None:
    available = available_memory()
    assert 0 < available < total_memory()
    assert has_room() is (available >= ROOM)


async def test_calls_that_keep_the_processors_busy_do_not_let_others_start_so_soon() -> None:
    turns = Turns(
        1, longest=0.01, longest_busy=0.2, pace=0.001, idle=lambda: 7.0, room=lambda: True
    )
    started = time.monotonic()
    async with turns.taken(), turns.taken():
        assert time.monotonic() - started >= 0.2


def test_idle_time_is_that_of_all_processors() -> None:
    """The kernel says it in another place, too, without what it waits for disks."""
    running, idle = map(float, Path("/proc/uptime").read_text().split())
    assert idle - 1 <= idle_time() <= (running + 1) * (os.cpu_count() or 1)
