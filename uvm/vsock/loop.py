"""The event loop: epoll, timers, and descriptors that are never closed too early."""

from __future__ import annotations

import heapq
import os
import select
import time
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

EVENTS_PER_BATCH: Final = 256


class Timer:
    """A callback at a time; `cancel` is enough to be rid of it."""

    __slots__ = ("callback", "deadline", "order")

    def __init__(self, deadline: float, order: int, callback: Callable[[], None]) -> None:
        self.deadline: Final = deadline
        self.order: Final = order
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)

    def cancel(self) -> None:
        """Never call the callback. Any number of times, also from the callback."""
        self.callback = None


class EventLoop:
    """Level-triggered epoll with a callback for each descriptor.

    An epoll batch is a list of descriptor numbers. When the handler of one event closes a socket
    and a later handler of the same batch opens another one, the kernel hands out the same number
    again, and a leftover event of the old socket would reach the new one. So descriptors are
    closed through `close` and `close_fd`, which forget them at once and give their numbers back
    after the batch.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._closing: list[int] = []
        self._soon: list[Callable[[], None]] = []
        self._timers: list[Timer] = []
        self._order = count()
        self._after_batch: list[Callable[[], None]] = []
        self._stopped = False

    def register(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` whenever one of ``events``, HUP or ERR holds for ``fd``."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events of a registered descriptor."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Never call the callback again, not even for an event of the present batch."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, sock: socket.socket) -> None:
        """Unregister a socket and close it when the present batch is over.

        The socket object is closed at once for its owner.
        """
        self.close_fd(sock.detach())

    def close_fd(self, fd: int) -> None:
        """Unregister a descriptor and close it when the present batch is over."""
        self.unregister(fd)
        self._closing.append(fd)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back after the present batch, before waiting again."""
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back after ``delay`` seconds."""
        timer = Timer(time.monotonic() + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def after_each_batch(self, callback: Callable[[], None]) -> None:
        """Call back at the end of every batch: the place for what is better done once."""
        self._after_batch.append(callback)

    def stop(self) -> None:
        """Make `run` return after the present batch."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            self.run_batch(self._timeout())

    def run_batch(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds for events (None: for ever) and serve one batch."""
        callbacks = self._callbacks
        for fd, events in self._epoll.poll(timeout, EVENTS_PER_BATCH):
            callback = callbacks.get(fd)
            if callback is not None:
                callback(events)
        self._run_timers()
        soon, self._soon = self._soon, []
        for call in soon:
            call()
        for call in self._after_batch:
            call()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        closing, self._closing = self._closing, []
        for fd in closing:
            os.close(fd)

    def _timeout(self) -> float | None:
        if self._soon:
            return 0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].deadline - time.monotonic())

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0].deadline <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()

    def close_all(self) -> None:
        """Close what waits to be closed, and epoll itself."""
        self._close_descriptors()
        self._epoll.close()
