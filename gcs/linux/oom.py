"""Whom the kernel kills when memory runs out (oom_score_adj, proc_pid_oom_score_adj(5)).

A process passes its score on to its children, also across execve.  The agent is to be the last
process that is killed, but what it starts for a host is not: children are made in an
:func:`unprotected` block, in which this process has the ordinary score.  Giving it to the child
afterwards would leave out what the child has forked by then, and a function that runs between fork
and exec would cost a copy of the page tables.
"""

from __future__ import annotations

import contextlib
import os
import subprocess  # costs nothing: asyncio has imported it
import threading
from typing import TYPE_CHECKING

from gcs.linux.libc import naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Killed after everything else.  One less would mean never, and a machine whose agent takes all of
#: the memory would be stuck.
PROTECTED = -999
ORDINARY = 0

_lock = threading.Lock()
_blocks = 0
_score: int | None = None


def protect_this_process(score: int = PROTECTED) -> None:
    """Have this process killed last, and its children that are made in `unprotected` not.

    score: from -1000, never, to 1000, first.

    Raises OSError: a lower score than before needs CAP_SYS_RESOURCE.
    """
    global _score  # noqa: PLW0603 - an attribute of the process
    with _lock:
        if not _blocks:
            set_score(os.getpid(), score)
        _score = score


def set_score(pid: int, score: int) -> None:
    """Set the score of a process, which its later children inherit.

    Raises OSError: there is no such process, or CAP_SYS_RESOURCE is missing.
    """
    path = f"/proc/{pid}/oom_score_adj"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, str(score).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise naming(error, f"set to {score}", path) from None


@contextlib.contextmanager
def unprotected() -> Iterator[None]:
    """Make children that are not protected; does nothing unless this process is.

    To be held only while a child is made: several threads may do so at once, and the process is
    protected again when all of them have.

    Raises OSError as `protect_this_process`.
    """
    global _blocks  # noqa: PLW0603 - as above
    with _lock:
        if _score is not None and not _blocks:
            set_score(os.getpid(), ORDINARY)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _score is not None and not _blocks:
                set_score(os.getpid(), _score)


def run_helper(
    command: Sequence[str], *, limit: float, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that is not protected to its end, like `subprocess.run`; blocks.

    command: argument vector.
    limit: seconds after which it is killed.
    stdin: what it reads; by default /dev/null.

    Returns status and output, standard error included.  Raises OSError when it can't be started,
    `subprocess.TimeoutExpired` when it was killed.
    """
    with unprotected():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            output, _ = process.communicate(stdin, timeout=limit)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)
