"""Messages that outlive connections, held back until a host can know what they are about.

The host that connects after a loss may be another one, to which the VM has migrated.  It learns
one by one which containers there are, and which of its predecessor's waits are still to be
answered; a message about anything it does not know yet makes it drop the connection for good.  It
names a container, or a process of the VM, in a request when it knows it.  A host that is still the
old one knows everything and names nothing: for its sake nothing is held for ever (spec 1.10).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gcs.bridge.message import Message

#: How long a host that has negotiated may name nothing (seconds).
HOLD_SECONDS = 10.0


class Outbox:
    """Sends messages about a subject on the connection that is there, or keeps them for the next.

    Messages about one subject keep their order.

    Args:
        hold_seconds: How long after a negotiation messages are held back at most.
    """

    __slots__ = ("_held", "_hold_seconds", "_named", "_send", "_timer")

    def __init__(self, hold_seconds: float = HOLD_SECONDS) -> None:
        self._hold_seconds = hold_seconds
        self._held: deque[Message] = deque()
        self._send: Callable[[Message], None] | None = None
        self._named: set[str] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_holding(self) -> bool:
        """Whether a host is there that may not know everything yet."""
        return self._named is not None

    def open(self, send: Callable[[Message], None]) -> None:
        """A host has negotiated: send on this connection what it knows about."""
        self._send = send
        self._named = set()
        self._timer = asyncio.get_running_loop().call_later(self._hold_seconds, self.release)

    def name(self, subject: str) -> None:
        """The host knows a subject: send what was held back about it."""
        if self._named is None or not subject or subject in self._named:
            return
        self._named.add(subject)
        self._send_held(lambda message: message.subject == subject)

    def release(self) -> None:
        """The host knows everything there is."""
        self._named = None
        self._send_held(lambda message: True)

    def put(self, message: Message) -> None:
        """Send a message as soon as the host that is there, or one that comes, knows about it."""
        if self._send is None or (self._named is not None and message.subject not in self._named):
            self._held.append(message)
        else:
            self._send(message)

    def close(self, unsent: Iterable[Message] = ()) -> None:
        """The connection is lost: from now on keep everything.

        Args:
            unsent: What it did not take, in order.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._send = self._named = self._timer = None
        self._held.extendleft(reversed([message for message in unsent if message.kept]))

    def _send_held(self, chosen: Callable[[Message], bool]) -> None:
        if self._send is None:
            return
        held, self._held = self._held, deque()
        for message in held:
            if chosen(message):
                self._send(message)
            else:
                self._held.append(message)
