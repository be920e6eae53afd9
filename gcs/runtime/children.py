"""Child processes: starting them, watching them by pidfd, and reaping every orphan.

The agent is a child subreaper, so the processes of containers become its children when the runtime
that made them exits, and so do daemons that nobody waits for.  Each pid with an owner here is
reaped by its owner alone; the rest is reaped as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal as signals
import subprocess  # costs nothing: asyncio has imported it
from typing import TYPE_CHECKING

from gcs.linux.oom import unprotected
from gcs.linux.pidfd import ExitStatus, open_pidfd, poll_exit, send_signal
from gcs.linux.tty import set_controlling_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

#: Descriptor argument of :meth:`Children.spawn` that stands for /dev/null.
NULL = subprocess.DEVNULL

# linux/wait.h: children of the calling thread only.  Orphans are given to the main thread, so with
# this flag its reaper can't take the status of what a worker thread started with `subprocess`.
_WNOTHREAD = 0x20000000
#: Stands for the status of a process that another part of the program has reaped.
LOST = ExitStatus(code=255)
# Orphans reaped in one go; more wait for the next turn of the loop.
_BATCH = 64


class Child:
    """A child process, held by a pidfd until it is reaped.

    Attributes:
        pid: Its process id, in the agent's pid namespace.
    """

    __slots__ = ("_exit", "_pidfd", "_table", "pid")

    def __init__(self, table: dict[int, Child], pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._table = table
        self._exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        if pidfd >= 0:
            table[pid] = self
            self._exit.get_loop().add_reader(pidfd, self.collect)

    @classmethod
    def of_status(cls, pid: int, status: ExitStatus) -> Child:
        """A child that has been reaped already."""
        child = cls({}, pid, -1)
        child._exit.set_result(status)
        return child

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; ``None`` when that has not been noticed yet."""
        return self._exit.result() if self._exit.done() else None

    def collect(self) -> bool:
        """Reap the process if it has ended; return whether it has."""
        if self._pidfd < 0:
            return True
        try:
            status = poll_exit(self._pidfd)
        except ChildProcessError:
            logger.error("process %d was reaped by somebody else: its exit code is lost", self.pid)
            status = LOST
        if status is None:
            return False
        self.release()
        if not self._exit.done():
            self._exit.set_result(status)
        return True

    async def wait(self) -> ExitStatus:
        """Wait until the process has ended; any number of tasks may."""
        return await asyncio.shield(self._exit)

    def signal(self, number: int) -> None:
        """Send a signal.

        Raises:
            ProcessLookupError: The process has ended; a later one with its pid is never hit.
            OSError: The kernel refuses the number (EINVAL).
        """
        if self.collect():
            raise ProcessLookupError(f"process {self.pid} has ended")
        send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signals.SIGKILL)

    def kill_group(self) -> None:
        """Send SIGKILL to the process group that it leads, if it still runs."""
        if not self.collect():
            # As long as the leader is not reaped nobody else can get its number.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signals.SIGKILL)

    def release(self) -> None:
        """Give up watching; whoever reaps orphans will reap it."""
        if self._pidfd >= 0:
            self._exit.get_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self._table.pop(self.pid, None)


class Newcomers:
    """Processes that a runtime is about to leave to the agent; see :meth:`Children.expect`."""

    __slots__ = ("_statuses", "_table")

    def __init__(self, table: dict[int, Child]) -> None:
        self._table = table
        self._statuses: dict[int, ExitStatus] = {}

    def note(self, pid: int, status: ExitStatus) -> None:
        """Keep the status of an orphan that ended before anybody claimed it."""
        self._statuses[pid] = status

    def adopt(self, pid: int) -> Child:
        """Become the owner of an orphan, whether it still runs or not.

        To be called when its parent has exited.

        Raises:
            ProcessLookupError: There is no such process, or it is no child of the agent.
        """
        try:
            pidfd = open_pidfd(pid)
        except ProcessLookupError:
            if pid in self._statuses:
                return Child.of_status(pid, self._statuses[pid])
            raise
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return Child(self._table, pid, pidfd)
        except ChildProcessError:
            os.close(pidfd)
            raise ProcessLookupError(f"process {pid} is no child of the agent") from None


class Children:
    """Every child process of the agent.

    To be made in the main thread, on the running loop; :meth:`close` ends it.  Processes must be
    started by :meth:`spawn`, or by `subprocess` in a worker thread: what the main thread starts
    otherwise is taken for an orphan.
    """

    __slots__ = ("_children", "_expecting", "_loop")

    def __init__(self) -> None:
        from gcs.linux.process import set_child_subreaper

        self._loop = asyncio.get_running_loop()
        self._children: dict[int, Child] = {}
        self._expecting: set[Newcomers] = set()
        set_child_subreaper()
        self._loop.add_signal_handler(signals.SIGCHLD, self._reap)
        self._reap()

    def spawn(
        self,
        arguments: Sequence[str],
        *,
        executable: str | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        stdin: int = NULL,
        stdout: int = NULL,
        stderr: int = NULL,
        leads_group: bool = False,
        terminal: bool = False,
    ) -> Child:
        """Start a process; returns when the program has been executed.

        It does not inherit how the agent is protected from the kernel's killing for memory.

        Args:
            arguments: The argument vector; the first is looked up in PATH unless it has a slash.
            executable: The program, when it is not the first argument.
            environment: The whole environment; by default the agent's.
            directory: Working directory; by default the agent's.
            stdin: Descriptor that becomes its standard input, and so on; the caller's stay open.
            leads_group: Start a process group, for :meth:`Child.kill_group`.
            terminal: Start a session, of which `stdin` becomes the controlling terminal.

        Raises:
            OSError: Program or directory missing, not executable, no memory.
        """
        with unprotected():
            process = subprocess.Popen(
                arguments,
                executable=executable,
                env=environment,
                cwd=directory,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                process_group=0 if leads_group else None,
                start_new_session=terminal,
                # A terminal can only be acquired by the process itself.  Nothing else asks for a
                # function here: it costs a fork instead of a vfork.
                preexec_fn=_acquire_terminal if terminal else None,  # noqa: PLW1509
            )
        # Not Popen reaps it but we, and Popen is not to complain that it still runs.
        process.returncode = 0
        return Child(self._children, process.pid, open_pidfd(process.pid))

    @contextlib.contextmanager
    def expect(self) -> Iterator[Newcomers]:
        """Keep the exit statuses of orphans while the block runs.

        For a runtime that starts a process, writes down its pid and exits: the process may end,
        and be reaped as an orphan, before its pid is known here.
        """
        newcomers = Newcomers(self._children)
        self._expecting.add(newcomers)
        try:
            yield newcomers
        finally:
            self._expecting.discard(newcomers)

    def close(self) -> None:
        """Reap what has ended, then stop watching and reaping."""
        self._reap()
        self._loop.remove_signal_handler(signals.SIGCHLD)
        for child in list(self._children.values()):
            child.release()

    def _reap(self) -> None:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT | _WNOTHREAD
        for _ in range(_BATCH):
            try:
                found = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return
            if found is None:
                return
            child = self._children.get(found.si_pid)
            # The kernel goes on naming the same child until it is reaped, so its owner has to.
            if child is None:
                self._reap_orphan(found.si_pid)
            else:
                child.collect()
        self._loop.call_soon(self._reap)

    def _reap_orphan(self, pid: int) -> None:
        pidfd = open_pidfd(pid)
        try:
            status = poll_exit(pidfd)
        finally:
            os.close(pidfd)
        if status is not None:
            for newcomers in self._expecting:
                newcomers.note(pid, status)


def _acquire_terminal() -> None:
    set_controlling_terminal(0)
