"""The event loop, above all that no event reaches the wrong descriptor."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from uvm.vsock.loop import EventLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close_all()


def readable_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    return ours, theirs


def test_stale_event_does_not_reach_a_reused_descriptor(loop: EventLoop) -> None:
    """Both sockets are readable in one batch. Whichever handler comes first closes the other
    socket and opens a new one, which must neither take its number nor see its event."""
    first, first_peer = readable_pair()
    second, second_peer = readable_pair()
    numbers = {first.fileno(), second.fileno()}
    fresh: list[socket.socket] = []
    events: list[str] = []

    def replace(victim: socket.socket) -> None:
        events.append("handled")
        loop.close(victim)
        new, peer = socket.socketpair()
        fresh.extend([new, peer])
        assert not {new.fileno(), peer.fileno()} & numbers
        loop.register(new.fileno(), select.EPOLLIN, lambda _: events.append("stale"))

    loop.register(first.fileno(), select.EPOLLIN, lambda _: replace(second))
    loop.register(second.fileno(), select.EPOLLIN, lambda _: replace(first))
    loop.run_batch(0)
    assert events == ["handled"]
    for sock in (first, second, first_peer, second_peer, *fresh):
        sock.close()


def test_closed_descriptors_are_given_back_after_the_batch(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    loop.register(fd, select.EPOLLIN, lambda _: None)
    loop.close(ours)
    os.fstat(fd)
    loop.run_batch(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    theirs.close()


def test_timers_run_in_order_unless_cancelled(loop: EventLoop) -> None:
    calls: list[str] = []
    loop.call_later(0.2, lambda: calls.append("second"))
    loop.call_later(0.01, lambda: calls.append("first"))
    loop.call_later(0.01, lambda: calls.append("never")).cancel()
    loop.call_later(0.3, loop.stop)
    loop.run()
    assert calls == ["first", "second"]


def test_soon_and_after_batch(loop: EventLoop) -> None:
    calls: list[str] = []

    def soon() -> None:
        calls.append("soon")
        loop.call_soon(loop.stop)

    loop.after_each_batch(lambda: calls.append("after"))
    loop.call_soon(soon)
    loop.run()
    assert calls == ["soon", "after", "after"]


def test_unregistered_descriptor_is_silent(loop: EventLoop) -> None:
    ours, theirs = readable_pair()
    calls: list[int] = []
    loop.register(ours.fileno(), select.EPOLLIN, calls.append)
    loop.run_batch(0)
    assert calls == [select.EPOLLIN]
    loop.unregister(ours.fileno())
    loop.unregister(ours.fileno())
    loop.run_batch(0)
    assert calls == [select.EPOLLIN]
    ours.close()
    theirs.close()
