"""Exit codes that a lost connection may have taken with it.

An answer that the kernel has accepted is gone when the host closes, or is paused for good, before
it has read it.  Nobody can tell: sending it again would upset a host that has read it.  So it is
not sent again, but given to a host that asks, as one to which the VM has migrated does for every
process it takes over (spec 1.10).
"""

from __future__ import annotations

import time

#: Answers written at most this long before the loss may not have been read (seconds).
DOUBT_SECONDS = 30.0
#: How many are remembered; hosts ask soon.
MAX_CODES = 4096


class ExitCodes:
    """Remembers answers to waits for processes that are themselves forgotten once answered.

    Args:
        doubt_seconds: See :data:`DOUBT_SECONDS`.
    """

    __slots__ = ("_doubt_seconds", "_doubtful", "_sent")

    def __init__(self, doubt_seconds: float = DOUBT_SECONDS) -> None:
        self._doubt_seconds = doubt_seconds
        self._sent: dict[tuple[str, int], tuple[int, float]] = {}
        self._doubtful: dict[tuple[str, int], int] = {}

    def sent(self, container_id: str, pid: int, exit_code: int) -> None:
        """Note an answer that goes out on a connection."""
        now = time.monotonic()
        self._sent.pop((container_id, pid), None)
        self._doubtful.pop((container_id, pid), None)  # of another process with that pid
        self._sent[container_id, pid] = (exit_code, now)
        while self._sent:
            oldest = next(iter(self._sent))
            if len(self._sent) <= MAX_CODES and now - self._sent[oldest][1] <= self._doubt_seconds:
                break
            del self._sent[oldest]

    def unsent(self, container_id: str, pid: int, exit_code: int) -> None:
        """Note an answer that waits for a host."""
        self._doubtful.pop((container_id, pid), None)
        self._doubtful[container_id, pid] = exit_code
        while len(self._doubtful) > MAX_CODES:
            del self._doubtful[next(iter(self._doubtful))]

    def lost(self) -> None:
        """The connection is lost: its last answers are in doubt."""
        now = time.monotonic()
        for (container_id, pid), (exit_code, when) in self._sent.items():
            if now - when <= self._doubt_seconds:
                self.unsent(container_id, pid, exit_code)
        self._sent.clear()

    def recall(self, container_id: str, pid: int) -> int | None:
        """Return, once, the exit code of a process whose answer is in doubt."""
        return self._doubtful.pop((container_id, pid), None)
