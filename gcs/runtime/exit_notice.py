"""The notification that a container has ended: its type, and when it is sent (spec 1.6, 4.10)."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal as signals
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.protocol.responses import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gcs.runtime.process import Process

#: How long the exit is kept back when nobody has waited for the init: a host sends its wait as soon
#: as it has the answer to the start, and expects the answer to the wait first.
GRACE: Final = 2.0


class ExitType(enum.StrEnum):
    """Why a container ended, as the notification says it."""

    GRACEFUL = "GracefulExit"
    FORCED = "ForcedExit"
    UNEXPECTED = "UnexpectedExit"


_OF_SIGNAL: Final[dict[int, ExitType]] = {
    signals.SIGTERM: ExitType.GRACEFUL,
    signals.SIGKILL: ExitType.FORCED,
}


class ExitNotice:
    """Sends exactly one notification for a container that was created.

    Sent when the init has ended and every wait for it is answered; when there was none, after
    ``GRACE`` seconds.

    Args:
        container_id: The container.
        activity_id: The one of the create request.
        init: Its first process.
        oom_kills: Tells how many of its processes the kernel killed for want of memory.
        publish: Takes the notification.
    """

    __slots__ = (
        "_activity_id",
        "_container_id",
        "_exit_type",
        "_hurry",
        "_init",
        "_oom_kills",
        "_publish",
    )

    def __init__(
        self,
        container_id: str,
        activity_id: str | None,
        init: Process,
        oom_kills: Callable[[], int],
        publish: Callable[[Notification], None],
    ) -> None:
        self._container_id = container_id
        self._activity_id = activity_id
        self._init = init
        self._oom_kills = oom_kills
        self._publish: Callable[[Notification], None] | None = publish
        self._exit_type = ExitType.UNEXPECTED
        self._hurry = False
        init.on_settled = self._settled

    @contextlib.contextmanager
    def caused_by(self, signal: int) -> Iterator[None]:
        """Take the exit for the effect of a signal that the block sends, unless the block fails.

        Set before the signal is sent, since the exit may be noticed at once.
        """
        before = self._exit_type
        self.will_be_caused_by(signal)
        try:
            yield
        except BaseException:
            self._exit_type = before
            raise

    def will_be_caused_by(self, signal: int) -> None:
        """Take the exit for the effect of a signal, whatever may come in between."""
        self._exit_type = _OF_SIGNAL.get(signal, self._exit_type)

    def hurry(self) -> None:
        """Wait no longer for somebody to wait."""
        self._hurry = True
        if self._init.finished:
            self._settled()

    def _settled(self) -> None:
        """Take note that the init has ended, and that no wait for it is pending."""
        if self._init.pending_waits or self._publish is None:
            return
        if self._init.collected or self._hurry:
            self._send(self._publish)
        else:
            asyncio.get_running_loop().call_later(GRACE, self.hurry)

    def _send(self, publish: Callable[[Notification], None]) -> None:
        self._publish = None
        activity_id = msgspec.UNSET if self._activity_id is None else self._activity_id
        publish(
            Notification(
                container_id=self._container_id,
                activity_id=activity_id,
                type=self._exit_type.value,
                out_of_memory_kills=self._oom_kills() or msgspec.UNSET,
            )
        )
