"""Waiting for children as the first process has to: for its own and for every orphan."""

from __future__ import annotations

import os

from gcs.init import kmsg


def reap_until(primary: int) -> int:
    """Reap every child until `primary` has ended; returns its status.

    The status is what the program gave to exit(2), or 128 + n when signal n killed it.  One other
    than 0 is logged with the program's name.  Raises ChildProcessError when `primary` is no child.
    """
    while True:
        # Left as a zombie at first, so that /proc still has its name.
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if ended is None:
            raise AssertionError("waitid without WNOHANG returned nothing")
        if ended.si_pid != primary:
            os.waitpid(ended.si_pid, 0)
            continue
        name = process_name(primary)
        _, status = os.waitpid(primary, 0)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            report = f"{name} killed by signal {number}"
            code = 128 + number
        else:
            code = os.WEXITSTATUS(status)
            report = f"{name} exited with status {code}"
        if code:
            kmsg.error(report)
            kmsg.say(report)
        return code


def process_name(pid: int) -> str:
    """Name of a process, running or ended and not yet reaped, as `ps -o comm` shows it."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return f"process {pid}"
