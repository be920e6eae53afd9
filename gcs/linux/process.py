"""Attributes of the calling process (prctl(2)), through python-prctl.

For the agent and its workers.  PID 1 and vsockexec do not import this module: they need none of
these before they become the agent, and python-prctl would cost them its own start-up.
"""

from __future__ import annotations

import os

import prctl


def set_child_subreaper(enabled: bool = True) -> None:
    """Make orphaned descendants children of this process, which then has to reap them.

    Raises OSError when the kernel refuses.
    """
    prctl.set_child_subreaper(1 if enabled else 0)


def set_process_name(name: str) -> None:
    """Name of the calling thread as `ps -o comm` shows it; the kernel keeps 15 bytes."""
    prctl.set_name(name)


def set_parent_death_signal(signal: int, parent: int) -> None:
    """Let the kernel send `signal` to this process when the thread that forked it ends.

    parent: process id of the parent, taken before the fork.  When the parent ended between the
    fork and this call the kernel would never send anything, so ProcessLookupError is raised.
    The setting is lost when a program with set-user-id or capabilities is executed.
    """
    prctl.set_pdeathsig(signal)
    if os.getppid() != parent:
        from errno import ESRCH

        raise ProcessLookupError(ESRCH, os.strerror(ESRCH), f"parent process {parent}")
