"""Running a program to its end on the event loop, watched by a pidfd.

`asyncio.create_subprocess_exec` imports more and starts a thread for each child.
"""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec

from gcs.linux.pidfd import ExitStatus, open_pidfd, send_signal, wait_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OUTPUT_LIMIT = 64 * 1024
_KILL_SECONDS = 5.0


class CommandResult(msgspec.Struct, frozen=True):
    """How a program ended and what it printed."""

    status: ExitStatus
    output: str
    """Standard output and standard error together, the last 64 KiB."""


#: Process ids of the programs that run now.  Whoever reaps orphans leaves these alone.
running: set[int] = set()


async def run_command(
    arguments: Sequence[str], *, limit: float, environment: Mapping[str, str] | None = None
) -> CommandResult:
    """Run a program with empty standard input until it ends.

    arguments: the program, looked up in PATH, and its arguments.
    limit: seconds after which it is killed.
    environment: instead of the caller's.

    Raises OSError naming the program when it cannot be started, TimeoutError with the command line
    when it was killed.  When cancelled it is killed and reaped too.
    """
    output = os.memfd_create("command-output", os.MFD_CLOEXEC)
    try:
        pid = _spawn(arguments, output, environment)
        running.add(pid)
        try:
            status = await _watch(pid, arguments, limit)
        finally:
            running.discard(pid)
        return CommandResult(status, _read_tail(output))
    finally:
        os.close(output)


def _spawn(arguments: Sequence[str], output: int, environment: Mapping[str, str] | None) -> int:
    try:
        return os.posix_spawnp(
            arguments[0],
            list(arguments),
            os.environ if environment is None else environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
        )
    except OSError as error:
        raise OSError(error.errno, f"start: {error.strerror}", arguments[0]) from None


async def _watch(pid: int, arguments: Sequence[str], limit: float) -> ExitStatus:
    loop = asyncio.get_running_loop()
    pidfd = open_pidfd(pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(limit):
            await ended.wait()
        return wait_status(pidfd)
    except BaseException as error:
        send_signal(pidfd, signal.SIGKILL)
        await _reap_killed(pidfd, ended)
        if isinstance(error, TimeoutError):
            command = " ".join(arguments)
            raise TimeoutError(f"`{command}` was killed after {limit:g} s") from None
        raise
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def _reap_killed(pidfd: int, ended: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_KILL_SECONDS):
            await ended.wait()
    except TimeoutError:
        # It hangs in the kernel, on a dead disk for example; the reaper of orphans gets it later.
        return
    wait_status(pidfd)


def _read_tail(output: int) -> str:
    size = os.fstat(output).st_size
    tail = os.pread(output, _OUTPUT_LIMIT, max(0, size - _OUTPUT_LIMIT))
    return tail.decode("utf-8", "replace").strip()
