"""Processes held by file descriptors: no race with a process id used again.

A pidfd becomes readable when its process has ended, so an event loop can watch it.
"""

from __future__ import annotations

import os
import signal as signals

import msgspec


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended."""

    code: int
    """Value given to exit(2), 0 to 255; 0 when a signal ended the process."""
    signal: int = 0
    """Number of the signal that ended the process, or 0."""
    core_dumped: bool = False

    @property
    def shell_code(self) -> int:
        """One number as shells and runc report it: 128 + n when killed by signal n."""
        return 128 + self.signal if self.signal else self.code


def open_pidfd(pid: int) -> int:
    """A close-on-exec descriptor of process `pid`, readable once the process has ended.

    Raises ProcessLookupError naming the process when there is none (a process that has ended
    counts until it is reaped), OSError for other failures.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise OSError(error.errno, f"pidfd_open: {error.strerror}", f"process {pid}") from None


def send_signal(pidfd: int, signal: int) -> None:
    """Send `signal` to the process; ProcessLookupError when it has ended and was reaped.

    A process that ended but was not reaped yet accepts any signal without effect.
    """
    try:
        signals.pidfd_send_signal(pidfd, signal)
    except OSError as error:
        text = f"pidfd_send_signal {signal}: {error.strerror}"
        raise OSError(error.errno, text, f"pidfd {pidfd}") from None


def poll_exit(pidfd: int) -> ExitStatus | None:
    """Reap the process, which must be a child of this one, if it has ended; never waits.

    Returns None while it runs.  Raises ChildProcessError when it is no child or already reaped.
    """
    return _wait(pidfd, os.WEXITED | os.WNOHANG)


def wait_status(pidfd: int) -> ExitStatus:
    """Wait, without limit, until the child has ended, and reap it.

    On an event loop call it once the descriptor is readable: then it returns at once.
    Raises ChildProcessError when it is no child or already reaped.
    """
    status = _wait(pidfd, os.WEXITED)
    if status is None:
        raise AssertionError("waitid without WNOHANG returned nothing")
    return status


def wait_exit(pidfd: int) -> int:
    """As `wait_status`, with the result as one number: 128 + n when killed by signal n."""
    return wait_status(pidfd).shell_code


def _wait(pidfd: int, options: int) -> ExitStatus | None:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, options)
    except OSError as error:
        raise OSError(error.errno, f"waitid: {error.strerror}", f"pidfd {pidfd}") from None
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(code=0, signal=result.si_status, core_dumped=result.si_code == os.CLD_DUMPED)
