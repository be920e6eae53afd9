"""A process the host started: its streams, its exit code, and who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import (
    GcsError,
    InvalidArgumentError,
    NotFoundError,
    WaitTimeoutError,
    error_text,
)
from gcs.protocol.requests import INFINITE
from gcs.protocol.trace import span
from gcs.stdio import TtyRelay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gcs.linux.pidfd import ExitStatus
    from gcs.runtime.children import Child
    from gcs.stdio import PipeRelay

logger = logging.getLogger(__name__)

#: The highest signal number (signal(7)).
HIGHEST_SIGNAL: Final = 64
#: The code of a process that was forgotten before it ended.
NEVER_ENDED: Final = 0xFFFF_FFFF


class WaitResult:
    """The answer to a wait.

    Attributes:
        exit_code: Unsigned 32-bit number.
    """

    __slots__ = ("_answered", "exit_code")

    def __init__(self, exit_code: int, answered: Callable[[], None]) -> None:
        self.exit_code = exit_code
        self._answered: Callable[[], None] | None = answered

    def answered(self) -> None:
        """To be called when the response is on its way, or can't be sent; once counts."""
        answered, self._answered = self._answered, None
        if answered is not None:
            answered()


class Process:
    """A running or ended process.

    Args:
        name: For messages.
        child: The process itself.
        relay: Its streams, owned from now on; ``None`` when it has the host's sockets itself.
        exit_code: Turns the status into the number the host is told.
        span_name: Kind of process, as spans of the reference name it (spec appendix C).
        on_exit: Awaited after the process has ended, before its output is drained.

    Attributes:
        pid: In the agent's pid namespace.
        pending_waits: Waits that were begun and are not answered yet.
        collected: Whether a wait was answered with the exit code.
        on_settled: Called whenever the process has ended and no wait is pending any more.
    """

    __slots__ = (
        "_child",
        "_code_of",
        "_exit_code",
        "_finished",
        "_name",
        "_span_name",
        "_supervisor",
        "collected",
        "on_settled",
        "pending_waits",
        "pid",
        "relay",
    )

    def __init__(
        self,
        name: str,
        child: Child,
        relay: PipeRelay | TtyRelay | None,
        *,
        exit_code: Callable[[ExitStatus], int],
        span_name: str = "containerProcess",
        on_exit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.pid = child.pid
        self.relay = relay
        self.pending_waits = 0
        self.collected = False
        self.on_settled: Callable[[], None] = _ignore
        self._name = name
        self._span_name = span_name
        self._child = child
        self._code_of = exit_code
        self._exit_code = 0
        self._finished = asyncio.Event()
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(on_exit), name=f"exit of {name}"
        )

    @property
    def finished(self) -> bool:
        """Whether it has ended and its output is delivered."""
        return self._finished.is_set()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.collect()

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; ``None`` when that has not been noticed yet."""
        return self._child.status

    async def finish(self) -> None:
        """Wait until it has ended and its output is delivered."""
        await self._finished.wait()

    async def wait(self, timeout_ms: int) -> WaitResult:
        """Wait for the exit code; any number of callers may.

        Args:
            timeout_ms: Milliseconds; ``INFINITE`` waits without limit.

        Raises:
            WaitTimeoutError: It still runs.
        """
        self.pending_waits += 1
        try:
            limit = None if timeout_ms == INFINITE else timeout_ms / 1000
            with span(f"opengcs::{self._span_name}::Wait", pid=self.pid):
                async with asyncio.timeout(limit):
                    await self._finished.wait()
        except BaseException as error:
            self._end_wait()
            if isinstance(error, TimeoutError):
                raise WaitTimeoutError(
                    f"{self._name} did not exit within {timeout_ms} ms"
                ) from None
            raise
        return WaitResult(self._exit_code, self._answered)

    def signal(self, number: int) -> None:
        """Send a signal.

        Raises:
            NotFoundError: It has ended.
            InvalidArgumentError: No such signal.
        """
        if not 0 < number <= HIGHEST_SIGNAL:
            raise InvalidArgumentError(f"signal {number} for {self._name} does not exist")
        try:
            self._child.signal(number)
        except ProcessLookupError as error:
            raise NotFoundError(f"{self._name} has ended") from error

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        self._child.kill()

    def resize(self, height: int, width: int) -> None:
        """Set the size of its terminal, in character cells; nothing happens after its end.

        Raises:
            GcsError: It has no terminal.
        """
        if not isinstance(self.relay, TtyRelay):
            raise GcsError(f"pid: {self.pid}, is not a tty and cannot be resized")
        self.relay.resize(height, width)

    async def end(self, seconds: float) -> bool:
        """Wait at most `seconds` until it is finished, then forget it.

        Returns:
            Whether the process has ended.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finished.wait()
        self.close()
        return self.ended

    def close(self) -> None:
        """Forget it: close its streams and answer who waits; it may go on running."""
        self._supervisor.cancel()
        if self.relay is not None:
            self.relay.close()
        if not self.finished:
            self._report()

    def _answered(self) -> None:
        self.collected = True
        self._end_wait()

    def _end_wait(self) -> None:
        self.pending_waits -= 1
        if self.finished and not self.pending_waits:
            self.on_settled()

    async def _supervise(self, on_exit: Callable[[], Awaitable[None]] | None) -> None:
        with span("newProcess::waitBackground", pid=self.pid):
            await self._child.wait()
        try:
            if on_exit is not None:
                await on_exit()
            if self.relay is not None:
                await self.relay.finish()
        except Exception as error:
            logger.warning("%s: after its end: %s", self._name, error_text(error), exc_info=error)
        self._report()

    def _report(self) -> None:
        status = self._child.status
        self._exit_code = NEVER_ENDED if status is None else self._code_of(status)
        self._finished.set()
        if not self.pending_waits:
            self.on_settled()


def _ignore() -> None:
    """Do nothing: nobody wants to know."""
