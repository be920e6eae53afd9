"""Waiting for a device that appears late: by the kernel's announcements, and by looking again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from gcs.linux import uevent
from gcs.storage.driver import in_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

T = TypeVar("T")

#: Seconds after which to look again even though nothing was announced.
RECHECK = 0.5


async def wait_for(
    look: Callable[[], T | None],
    *,
    limit: float,
    recheck: float = RECHECK,
    open_events: Callable[[], socket.socket] = uevent.open_socket,
) -> T | None:
    """Call `look` in a thread, at first and after each event, until it returns something.

    limit: seconds; then the result is None.

    Raises what `look` raises, and OSError when there are no events to wait for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    found = await in_thread(look)
    if found is not None:
        return found
    with open_events() as events:
        announced = asyncio.Event()

        def on_readable() -> None:
            uevent.drain(events)
            announced.set()

        loop.add_reader(events, on_readable)
        try:
            # The first look here is for what came between the one above and the open socket.
            while (found := await in_thread(look)) is None and loop.time() < deadline:
                with suppress(TimeoutError):
                    pause = min(recheck, deadline - loop.time())
                    await asyncio.wait_for(announced.wait(), pause)
                announced.clear()
        finally:
            loop.remove_reader(events)
    return found
