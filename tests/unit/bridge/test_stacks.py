"""The text that shows what the agent is doing."""

from __future__ import annotations

import asyncio
import threading

from gcs.bridge.stacks import dump_stacks


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def test_tasks_and_threads_with_what_they_wait_for() -> None:
    event = asyncio.Event()
    tasks = [asyncio.create_task(outer(event), name=f"task-{number}") for number in range(3)]
    thread_event = threading.Event()
    thread = threading.Thread(target=thread_event.wait, name="helper")
    thread.start()
    await asyncio.sleep(0)
    text = dump_stacks(asyncio.get_running_loop())
    event.set()
    thread_event.set()
    thread.join()
    await asyncio.gather(*tasks)
    assert text.startswith("4 tasks, ")
    assert "3 tasks (task-" in text
    stack = text[text.index("3 tasks (task-") :].splitlines()[1:5]
    assert [line.split()[-1] for line in stack[:2]] == ["outer", "inner"]
    assert "Event.wait" in stack[2]
    assert stack[3] == "  waiting for a FutureIter"
    assert "thread helper:" in text
    assert "test_tasks_and_threads_with_what_they_wait_for" in text


async def test_the_text_has_a_limit() -> None:
    text = dump_stacks(asyncio.get_running_loop(), limit=10)
    assert "more stacks cut" in text
    assert len(text) < 10_000
